// memjs, which speaks the binary protocol, through what happens to a cluster: memjs_loop.cjs
// HOST:PORT,... As loop.py does it.
"use strict";
const { Client } = require("memjs");

const KEYS = 100;
const quiet = { log() {} };
const options = { failover: true, failoverTime: 3600, retries: 1, timeout: 6, conntimeout: 1, logger: quiet };
const client = Client.create(process.argv[2], options);
const known = new Map(Array.from({ length: KEYS }, (_, at) => [`memjs-${at}`, new Set([null])]));
let ending = false;

// Where a server ends while memjs waits for its answer, memjs may say nothing at all.
const within = (answer) =>
  new Promise((done, failed) => {
    const timer = setTimeout(() => failed(new Error("no answer")), 7000);
    answer.then(done, failed).finally(() => clearTimeout(timer));
  });
const tell = (kind, what) => console.log(kind, Date.now(), String(what).split(/\s+/).join(" "));
const text = ({ value }) => (value === null ? null : String(value));

async function change(key, after, what) {
  known.get(key).add(after);
  if (!(await within(what()))) throw new Error(`a change of ${key} is refused`);
  known.set(key, new Set([after]));
}

async function round(number) {
  const key = `memjs-${(number * 37) % KEYS}`;
  const value = `value-${number}`;
  await change(key, value, () => client.set(key, value, {}));
  const found = text(await within(client.get(key)));
  if (found === null) throw new Error(`get of ${key} finds nothing`);
  if (!known.get(key).has(found)) tell("wrong", `${key}: ${found}`);
  if (number % 5 !== 0) return;
  await change(key, null, () => client.delete(key));
  const left = text(await within(client.get(key)));
  if (left !== null) tell("wrong", `${key}: ${left}, though it was deleted`);
}

async function main() {
  process.stdin.on("end", () => (ending = true)).resume();
  let wentWell = 0;
  for (let number = 0; !ending; number += 1) {
    try {
      await round(number);
      wentWell += 1;
      if (wentWell % 10 === 0) tell("ok", wentWell);
    } catch (error) {
      tell("error", error && error.message);
      await new Promise((done) => setTimeout(done, 100));
    }
  }
  client.close();
}

main();
