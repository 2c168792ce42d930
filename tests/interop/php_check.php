<?php
// PHP's Memcached (php-memcached, over libmemcached) against a server: php_check.php HOST PORT
// [USER PASSWORD]. Where a user is named, the server must ask for one, by SASL. Ends with an error
// at once.
[$host, $port, $user, $password] = array_pad(array_slice($argv, 1), 4, null);

function check(string $what, mixed $got, mixed $wanted): void
{
    if ($got !== $wanted) {
        fwrite(STDERR, "$what: got " . var_export($got, true) . ", wanted " . var_export($wanted, true) . "\n");
        exit(1);
    }
}

function connect(bool $binary, ?string $user, ?string $password): Memcached
{
    global $host, $port;
    $client = new Memcached();
    $client->setOption(Memcached::OPT_BINARY_PROTOCOL, $binary);
    $client->setOption(Memcached::OPT_TCP_NODELAY, true);
    if ($user !== null) {
        $client->setSaslAuthData($user, $password);
    }
    $client->addServer($host, (int) $port);
    return $client;
}

function basics(Memcached $client, string $name): void
{
    $key = "$name-key";
    check('set', $client->set($key, ['a' => 1, 'b' => [2.5, null, true]]), true);
    check('get', $client->get($key), ['a' => 1, 'b' => [2.5, null, true]]);
    check('add of what is there', $client->add($key, 1), false);
    // The binary protocol has another word for it than text.
    $exists = in_array($client->getResultCode(), [Memcached::RES_NOTSTORED, Memcached::RES_DATA_EXISTS], true);
    check('why', $exists, true);
    check('replace', $client->replace($key, 'three'), true);
    $client->setOption(Memcached::OPT_COMPRESSION, false);
    check('append', $client->append($key, '+'), true);
    check('prepend', $client->prepend($key, '-'), true);
    $found = $client->get($key, null, Memcached::GET_EXTENDED);
    check('get of it all', $found['value'], '-three+');
    check('cas', $client->cas($found['cas'], $key, 'four'), true);
    check('cas, the old one', $client->cas($found['cas'], $key, 'five'), false);
    check('why', $client->getResultCode(), Memcached::RES_DATA_EXISTS);
    check('touch', $client->touch($key, 100), true);
    check('delete', $client->delete($key), true);
    check('delete again', $client->delete($key), false);
    check('why', $client->getResultCode(), Memcached::RES_NOTFOUND);
    check('set of a number', $client->set("$name-number", 40), true);
    check('increment', $client->increment("$name-number", 2), 42);
    check('decrement below zero', $client->decrement("$name-number", 50), 0);
    $large = str_repeat('0123456789abcdef', 60000);
    check('a large value', $client->set("$name-large", $large), true);
    check('it comes back', $client->get("$name-large") === $large, true);
    $many = [];
    for ($at = 0; $at < 2000; $at++) {
        $many["$name-many-$at"] = "value $at";
    }
    check('setMulti', $client->setMulti($many), true);
    check('getMulti', $client->getMulti(array_keys($many)), $many);
    $gone = $client->deleteMulti(array_slice(array_keys($many), 0, 1000));
    check('deleteMulti', array_unique(array_values($gone)), [true]);
    check('getMulti of the rest', count($client->getMulti(array_keys($many))), 1000);
    $stats = array_values($client->getStats())[0];
    check('stats', $stats['curr_items'] > 1000, true);
    check('version', str_starts_with(array_values($client->getVersion())[0], '1.6.'), true);
}

if ($user === null) {
    basics(connect(false, null, null), 'text');
    basics(connect(true, null, null), 'binary');
} else {
    basics(connect(true, $user, $password), 'sasl');
    foreach ([[$user, $password . 'x'], [$user, substr($password, 0, -1)], [$user . 'x', $password], [null, null]] as $wrong) {
        check('a stranger', connect(true, ...$wrong)->set('stranger', 1), false);
    }
}
echo "passed\n";
