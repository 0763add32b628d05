"""A tenant's program that submits over NATS. Promises: one job for one `Idempotency-Key`, however
often it asks; an event that was missed is made up for by asking. See ../README.md.

    producer.py NATS-URL CREDENTIAL-FILE FILENAME     prints one JSON object for each step
"""

import asyncio
import base64
import json
import os
import ssl
import sys

import nacl.signing
import nats
from nats.errors import Error as NatsError

TRIES_MAX = 8  # a broker or an intake that restarts is back within seconds
EVENT_SECS = 15  # an event that does not come within this long may have been missed
ENDED = ("completed", "failed", "rejected", "cancelled", "expired")


def after(path, mark):
    """The line after `mark` in a credential file."""
    with open(path, encoding="ascii") as file:
        for line in file:
            if mark in line:
                return next(file).strip()
    raise SystemExit(f"{path} is no credential file")


def token(path):
    return after(path, "BEGIN NATS USER JWT")


def sign(path, nonce):
    """Ed25519 by the login's seed: 2 bytes of prefix, 32 of seed, 2 of checksum, in base32."""
    text = after(path, "BEGIN USER NKEY SEED")
    raw = base64.b32decode(text + "=" * (-len(text) % 8))
    return base64.b64encode(nacl.signing.SigningKey(raw[2:34]).sign(nonce.encode()).signature)


def login_name(path):
    """The name in the login's token: the only inboxes that it may hear begin with it."""
    claims = token(path).split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["name"]


async def connect(url, path):
    options = {}
    if url.startswith("tls:"):
        # The broker speaks TLS from the first byte on, and with whom it knows.
        context = ssl.create_default_context(cafile=os.environ.get("HOTCELL_CA"))
        if own := os.environ.get("HOTCELL_CERT"):
            context.load_cert_chain(own, os.environ["HOTCELL_CERT_KEY"])
        options = {"tls": context, "tls_handshake_first": True}
    # The file is read again for each connection: logins end, and are renewed in place.
    return await nats.connect(
        url,
        user_jwt_cb=lambda: bytearray(token(path), "ascii"),
        signature_cb=lambda nonce: sign(path, nonce),
        inbox_prefix=f"_INBOX_{login_name(path)}",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.5,
        **options,
    )


class Connection:
    """A connection, made anew where nats-py has closed it for good: it does at each error that the
    broker states, the end of a login among them."""

    def __init__(self, url, path):
        self._url, self._path, self._client, self.events = url, path, None, None

    async def client(self):
        if self._client is None or self._client.is_closed:
            self._client = await connect(self._url, self._path)
            # Heard before anything is submitted, or a quick job's event would be missed.
            self.events = await self._client.subscribe("events.>")
        return self._client


async def ask(connection, verb, body, key=None):
    """Asks, and asks again while it is told to come back or nobody answers. All four verbs may be
    repeated: a submission by its key."""
    headers = {"Idempotency-Key": key} if key else None
    for tries in range(1, TRIES_MAX + 1):
        try:
            data = json.dumps(body).encode()
            client = await connection.client()
            answer = await client.request(f"api.{verb}", data, timeout=10, headers=headers)
        except (NatsError, TimeoutError):
            await asyncio.sleep(1)  # no answer, or nobody there: the same request is asked again
            continue
        status = int(answer.headers["Hotcell-Status"])
        if status in (429, 503) and tries < TRIES_MAX:
            await asyncio.sleep(int(answer.headers.get("retry-after", "1")))
            continue
        return status, json.loads(answer.data)
    raise SystemExit(f"api.{verb} is not answered")


async def ended(connection, job):
    """Waits for the event that a job ended with, and says its states on the way. Each silence is a
    reason to ask: events are not stored."""
    while True:
        try:
            event = await connection.events.next_msg(timeout=EVENT_SECS)
            if event.subject == f"events.{job}.state":
                say("state", 200, json.loads(event.data))
            if event.subject == f"events.{job}.terminal":
                told = json.loads(event.data).get("data", {})
                if told.get("id") == job:  # or it is no event: see README.md
                    return "event", told
        except (NatsError, TimeoutError):
            _, answer = await ask(connection, "get", {"id": job})
            if answer["result"]["state"] in ENDED:
                return "get", answer["result"]


def request(filename):
    return {
        "inputs": [{"url": f"upload:{filename}"}],
        "outputFormat": "mp4",
        "preset": {"quality": "low", "resolution": "240p"},
    }


def say(step, status, said):
    print(json.dumps({"step": step, "status": status, "said": said}), flush=True)


async def main(url, creds, filename):
    connection = Connection(url, creds)
    key = f"python-{filename}"
    status, made = await ask(connection, "submit", request(filename), key)
    say("submit", status, made.get("result", made))
    if "result" not in made:
        raise SystemExit(1)  # a problem, which says what is wrong
    status, again = await ask(connection, "submit", request(filename), key)
    say("repeat", status, again["result"])
    job = made["result"]["id"]

    status, listed = await ask(connection, "list", {"limit": 1})
    say("list", status, listed["result"])
    by, done = await ended(connection, job)
    say(by, 200, done)
    status, read = await ask(connection, "get", {"id": job})
    say("get", status, read["result"])

    _, second = await ask(connection, "submit", request(filename), f"{key}-2")
    status, cancelled = await ask(connection, "cancel", {"id": second["result"]["id"]})
    say("cancel", status, cancelled)

    status, problem = await ask(connection, "submit", request("no-such-upload.mp4"))
    say("problem", status, problem)
    await (await connection.client()).close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("usage: producer.py NATS-URL CREDENTIAL-FILE FILENAME")
    asyncio.run(main(*sys.argv[1:]))
