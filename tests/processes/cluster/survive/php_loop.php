<?php
// PHP's Memcached, that is the libmemcached of the system, through what happens to a cluster:
// php_loop.php HOST:PORT,... As loop.py does it.
const KEYS = 100;
$client = new Memcached();
$client->setOptions([
    Memcached::OPT_LIBKETAMA_COMPATIBLE => true,
    Memcached::OPT_REMOVE_FAILED_SERVERS => true,
    Memcached::OPT_SERVER_FAILURE_LIMIT => 1,
    Memcached::OPT_RETRY_TIMEOUT => 1,
    Memcached::OPT_DEAD_TIMEOUT => 3,
    Memcached::OPT_CONNECT_TIMEOUT => 1000,
    Memcached::OPT_SEND_TIMEOUT => 6000000,
    Memcached::OPT_RECV_TIMEOUT => 6000000,
]);
foreach (explode(',', $argv[1]) as $server) {
    [$host, $port] = explode(':', $server);
    $client->addServer($host, (int) $port);
}
stream_set_blocking(STDIN, false);
function tell(string $kind, string $what): void
{
    printf("%s %d %s\n", $kind, microtime(true) * 1000, trim(preg_replace('/\s+/', ' ', $what)));
    flush();
}
$known = [];
for ($at = 0; $at < KEYS; $at++) {
    $known["php-$at"] = [false];
}
$change = function (string $key, $after, bool $done) use (&$known, $client): void {
    $known[$key][] = $after;
    if (!$done) {
        throw new RuntimeException("a change of $key: " . $client->getResultMessage());
    }
    $known[$key] = [$after];
};
$wentWell = 0;
for ($number = 0; !feof(STDIN); $number++) {
    fread(STDIN, 1);
    $key = 'php-' . ($number * 37 % KEYS);
    $value = "value-$number";
    try {
        $change($key, $value, $client->set($key, $value));
        $found = $client->get($key);
        if ($found === false) {
            throw new RuntimeException("get of $key: " . $client->getResultMessage());
        }
        if (!in_array($found, $known[$key], true)) {
            tell('wrong', "$key: $found");
        }
        if ($number % 5 === 0) {
            $change($key, false, $client->delete($key));
            $left = $client->get($key);
            if ($left !== false) {
                tell('wrong', "$key: $left, though it was deleted");
            }
        }
        if (++$wentWell % 10 === 0) {
            tell('ok', (string) $wentWell);
        }
    } catch (Exception $error) {
        tell('error', $error->getMessage());
        usleep(100000);
    }
}
