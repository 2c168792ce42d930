// memjs, the client of MemCachier's for Node, which speaks the binary protocol and SASL, against a
// server: memjs_check.cjs HOST:PORT [USER PASSWORD]. Where a user is named, the server must ask for
// one. Ends with an error at once.
"use strict";
const { deepStrictEqual } = require("node:assert");
const { Client } = require("memjs");

const [address, username, password] = process.argv.slice(2);
const quiet = { log() {} };
const options = { retries: 0, timeout: 10, logger: quiet };
const connect = (more) => Client.create(address, { ...options, ...more });
const check = (what, got, wanted) => deepStrictEqual(got, wanted, what);

async function isRefused(what, client) {
  const outcome = await client.set("stranger", "value", {}).then(
    () => "served",
    () => "refused",
  );
  check(what, outcome, "refused");
  client.close();
}

async function basics(client) {
  const text = async (key) => String((await client.get(key)).value);
  await client.flush();
  check("get of nothing", (await client.get("key")).value, null);
  check("set", await client.set("key", "one", {}), true);
  check("get", await text("key"), "one");
  check("add of what is there", await client.add("key", "two", {}), false);
  check("replace", await client.replace("key", "three", {}), true);
  check("append", await client.append("key", "+"), true);
  // Its prepend sends append's opcode, to any server.
  check("prepend", await client.prepend("key", "-"), true);
  check("get of it all", await text("key"), "three+-");
  check("touch", await client.touch("key", 100), true);
  check("replace of nothing", await client.replace("none", "x", {}), false);
  check("delete", await client.delete("key"), true);
  check("delete again", await client.delete("key"), false);
  check("increment of nothing", (await client.increment("number", 2, { initial: 40 })).value, 40);
  check("increment", (await client.increment("number", 2, {})).value, 42);
  check("decrement below zero", (await client.decrement("number", 50, {})).value, 0);
  const large = Buffer.from(Array.from({ length: 900_000 }, (_, at) => (at * 7) % 251));
  check("a large value", await client.set("large", large, {}), true);
  check("it comes back", large.equals((await client.get("large")).value), true);
  const keys = Array.from({ length: 2_000 }, (_, at) => `many-${at}`);
  await Promise.all(keys.map((key) => client.set(key, `value of ${key}`, {})));
  const found = await Promise.all(keys.map(text));
  check("many at once", found, keys.map((key) => `value of ${key}`));
  const rows = await new Promise((done, failed) =>
    client.stats((error, _, stats) => (error ? failed(error) : done(stats))),
  );
  check("stats", Number(rows.curr_items) > 2_000, true);
}

async function main() {
  const client = connect({ username, password });
  await basics(client);
  client.close();
  if (username) {
    await isRefused("a wrong password", connect({ username, password: `${password}x` }));
    await isRefused("a part of the password", connect({ username, password: password.slice(0, -1) }));
    await isRefused("no password", connect({}));
  }
  console.log("passed");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
