// A tenant's program that submits over NATS. Promises: one job for one `Idempotency-Key`, however
// often it asks; an event that was missed is made up for by asking. See ../README.md.
//
//     node producer.mjs NATS-URL CREDENTIAL-FILE FILENAME     prints one JSON object for each step

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, credsAuthenticator, headers } from "@nats-io/transport-node";

const TRIES_MAX = 8; // a broker or an intake that restarts is back within seconds
const EVENT_MS = 15000; // an event that does not come within this long may have been missed
const ENDED = ["completed", "failed", "rejected", "cancelled", "expired"];

/** The name in the login's token: the only inboxes that it may hear begin with it. */
function loginName(creds) {
  const token = creds.split("\n").find((line) => line.split(".").length === 3);
  return JSON.parse(Buffer.from(token.split(".")[1], "base64url")).name;
}

function open(url, path) {
  const { HOTCELL_CA: caFile, HOTCELL_CERT: certFile, HOTCELL_CERT_KEY: keyFile } = process.env;
  return connect({
    servers: url.replace(/^tls:/, "nats:"),
    // The broker speaks TLS from the first byte on, and with whom it knows.
    tls: url.startsWith("tls:") ? { handshakeFirst: true, caFile, certFile, keyFile } : undefined,
    // A login that is renewed late, or a tenant that is suspended, is served again.
    ignoreAuthErrorAbort: true,
    // The file is read again for each connection: logins end, and are renewed in place.
    authenticator: (nonce) => credsAuthenticator(readFileSync(path))(nonce),
    inboxPrefix: `_INBOX_${loginName(readFileSync(path, "ascii"))}`,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 500,
  });
}

/** Asks, and asks again while it is told to come back or nobody answers. All four verbs may be
 * repeated: a submission by its key. */
async function ask(client, verb, body, key) {
  for (let tries = 1; tries <= TRIES_MAX; tries += 1) {
    const fields = headers();
    if (key) fields.set("Idempotency-Key", key);
    let answer;
    try {
      const options = { timeout: 10_000, headers: fields };
      answer = await client.request(`api.${verb}`, JSON.stringify(body), options);
    } catch {
      await sleep(1000); // no answer, or nobody there: the same request is asked again
      continue;
    }
    const status = Number(answer.headers.get("Hotcell-Status"));
    if ((status === 429 || status === 503) && tries < TRIES_MAX) {
      await sleep(1000 * Number(answer.headers.get("retry-after") || "1"));
      continue;
    }
    return { status, body: answer.json() };
  }
  throw new Error(`api.${verb} is not answered`);
}

/** Waits for the event that a job ended with, and says its states on the way. Each silence is a
 * reason to ask: events are not stored. */
async function ended(client, events, job) {
  let next = events.next();
  for (;;) {
    const heard = new AbortController();
    const silence = sleep(EVENT_MS, "silence", { signal: heard.signal });
    const event = await Promise.race([next, silence]);
    heard.abort(); // or the program would live as long as the timer
    if (event === "silence") {
      const { body } = await ask(client, "get", { id: job });
      if (ENDED.includes(body.result.state)) return ["get", body.result];
      continue;
    }
    if (event.done) throw new Error("the connection is closed");
    if (event.value.subject === `events.${job}.state`) say("state", 200, event.value.json());
    if (event.value.subject === `events.${job}.terminal`) {
      const told = event.value.json().data;
      if (told?.id === job) return ["event", told]; // or it is no event: see README.md
    }
    next = events.next();
  }
}

function request(filename) {
  return {
    inputs: [{ url: `upload:${filename}` }],
    outputFormat: "mp4",
    preset: { quality: "low", resolution: "240p" },
  };
}

function say(step, status, said) {
  console.log(JSON.stringify({ step, status, said }));
}

async function main(url, creds, filename) {
  const client = await open(url, creds);
  // Heard before anything is submitted, or a quick job's event would be missed.
  const events = client.subscribe("events.>")[Symbol.asyncIterator]();

  const key = `node-${filename}`;
  const made = await ask(client, "submit", request(filename), key);
  say("submit", made.status, made.body.result ?? made.body);
  if (!made.body.result) process.exit(1); // a problem, which says what is wrong
  const again = await ask(client, "submit", request(filename), key);
  say("repeat", again.status, again.body.result);
  const job = made.body.result.id;

  const listed = await ask(client, "list", { limit: 1 });
  say("list", listed.status, listed.body.result);
  const [by, done] = await ended(client, events, job);
  say(by, 200, done);
  const read = await ask(client, "get", { id: job });
  say("get", read.status, read.body.result);

  const second = await ask(client, "submit", request(filename), `${key}-2`);
  const cancelled = await ask(client, "cancel", { id: second.body.result.id });
  say("cancel", cancelled.status, cancelled.body);

  const problem = await ask(client, "submit", request("no-such-upload.mp4"));
  say("problem", problem.status, problem.body);
  await client.close();
}

const [url, creds, filename] = process.argv.slice(2);
if (!filename) {
  console.error("usage: producer.mjs NATS-URL CREDENTIAL-FILE FILENAME");
  process.exit(2);
}
await main(url, creds, filename);
