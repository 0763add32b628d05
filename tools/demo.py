#!/usr/bin/env python3
"""The demo: one real clip through every service of hotcell, seen from outside.

Promises: it starts an installation of its own, uses only the HTTP API, presigned URLs and the
command line, as a tenant would; checks every result against something that is not hotcell
(ffprobe, sha256, the Standard Webhooks library); leaves no process behind; exits 1 at the first
thing that is not as it should be. Proves ZT-21, NEW-15.
"""

import argparse
import base64
import fcntl
import hashlib
import hmac
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

from standardwebhooks import Webhook

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".hotcell-demo"
CLIP_SECS, CLIP_SIZE, HEIGHT = 10, "1280x720", 480
READY_SECS, JOB_SECS, LOG_SECS, STOP_SECS = 90, 120, 30, 60
EVENTS = ["submitted", "validated", "assigned", "encoded", "completed"]
# No proxy of the environment may come between the demo and loopback.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Fail(Exception):
    """Something is not as it should be."""


def expect(good, what):
    if not good:
        raise Fail(what)


def say(what, text):
    print(f"  {what:<10} {text}", flush=True)


def until(secs, what, look):
    """The first true value of `look`, which is asked again and again."""
    end = time.monotonic() + secs
    while not (found := look()):
        expect(time.monotonic() < end, f"{what}: not within {secs} s")
        time.sleep(0.02)
    return found


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def megabytes(path):
    return f"{path.stat().st_size / 1e6:.1f} MB"


# Processes.


def start_time(pid):
    """With the pid it names one process for ever. Source: proc_pid_stat(5), field 22."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def family(pid):
    """The process and all below it, each with its start time."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            pass
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return [(one, start_time(one)) for one in found]


def alive(processes):
    def is_there(pid, started):
        if started is None or start_time(pid) != started:
            return False
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    return [pid for pid, started in processes if is_there(pid, started)]


def fresh_folder():
    """Ends what a killed demo left behind, and begins with an empty folder."""
    lock = DATA / "run/lock"
    if lock.exists():
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Fail(f"another demo runs in {DATA}") from None
    for noted in DATA.glob("run/*.pid"):
        pid, _, started = noted.read_text().strip().partition(" ")
        if alive([(int(pid), started)]):
            os.kill(int(pid), signal.SIGKILL)
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(mode=0o700)


class Installation:
    """`hotcell up`, and what it wrote into dev.env."""

    def __init__(self, programs):
        self.program = programs / "hotcell"
        expect(self.program.is_file(), f"{self.program} is missing: run `make build`")
        keep = ("HOTCELL_NATS_SERVER", "HOTCELL_FFMPEG", "HOTCELL_FFPROBE")
        self.env = {k: v for k, v in os.environ.items() if k in keep or k[:8] != "HOTCELL_"}
        command = ["up", "--listen", "127.0.0.1:0", "--webhook-retry", "1,1,1"]
        with open(DATA / "up.log", "w") as log:
            self.up = subprocess.Popen(
                [self.program, "--data", DATA, *command], cwd=ROOT, env=self.env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )

    def wait(self):
        def ready():
            expect(self.up.poll() is None, f"hotcell up ended with {self.up.returncode}")
            return (DATA / "dev.env").is_file() and "ready" in (DATA / "up.log").read_text()

        until(READY_SECS, "hotcell up is not ready", ready)
        lines = (DATA / "dev.env").read_text().splitlines()
        pairs = (line.removeprefix("export ").partition("=") for line in lines)
        self.settings = {name: value.strip("'") for name, _, value in pairs}

    def api(self, method, path, body=None, bearer=None):
        """The `result` of an answer of the API."""
        request = urllib.request.Request(self.settings["HOTCELL_API"] + path, method=method)
        request.add_header("Authorization", "Bearer " + (bearer or self.settings["HOTCELL_KEY"]))
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with HTTP.open(request, timeout=60) as answer:
                return json.load(answer)["result"]
        except urllib.error.HTTPError as error:
            raise Fail(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def cli(self, *args):
        return subprocess.run(
            [self.program, "--data", DATA, *args], cwd=ROOT, env=self.env,
            capture_output=True, text=True, timeout=60,
        )

    def stop(self):
        """SIGINT; the time it took, in milliseconds."""
        processes, began = family(self.up.pid), time.monotonic()
        self.up.send_signal(signal.SIGINT)
        code = self.up.wait(STOP_SECS)
        took = round((time.monotonic() - began) * 1000)
        expect(code == 0, f"hotcell up ended with {code} after SIGINT")
        left = alive(processes)
        expect(not left, f"processes are left after hotcell up ended: {left}")
        return took, len(processes)

    def kill(self):
        for pid in alive(family(self.up.pid)):
            os.kill(pid, signal.SIGKILL)


# The receiver of webhooks.


class Receiver(http.server.ThreadingHTTPServer):
    """A tenant's endpoint: keeps what arrives, with the time."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.arrived = queue.Queue(maxsize=16)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook"


class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        at = time.time()
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.arrived.put((at, dict(self.headers.items()), body), timeout=5)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def verify_webhook(secret, headers, body, job):
    """BRK-42, BRK-44..48: by the independent library, then header by header."""
    headers = {name.lower(): value for name, value in headers.items()}
    payload = Webhook(secret).verify(body.decode(), headers)
    moment = headers["webhook-timestamp"]
    expect(abs(time.time() - int(moment)) < 300, "the webhook's timestamp is out of its window")
    signed = f"{headers['webhook-id']}.{moment}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, signed, hashlib.sha256).hexdigest()
    expect(headers["x-hotcell-signature"] == f"hmac={digest}", "X-Hotcell-Signature differs")
    expect(headers["x-hotcell-timestamp"] == moment, "X-Hotcell-Timestamp differs")
    expect(headers["x-hotcell-event"] == payload["type"], "X-Hotcell-Event differs")
    for changed in (dict(headers, **{"webhook-timestamp": str(int(moment) - 1)}), headers):
        other = body if changed is not headers else body.replace(b"completed", b"Completed", 1)
        try:
            Webhook(secret).verify(other.decode(), changed)
        except Exception:  # noqa: BLE001: whatever the library says, it must not accept
            continue
        raise Fail("a changed webhook verifies")
    expect(job in body.decode(), "the webhook is of another job")
    return payload


# Media.


def make_clip(path):
    tone = f"sine=frequency=440:duration={CLIP_SECS}"
    picture = f"testsrc2=size={CLIP_SIZE}:rate=30:duration={CLIP_SECS}"
    made = subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone,
         "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", path],
        capture_output=True, text=True, timeout=120,
    )
    expect(made.returncode == 0, f"ffmpeg cannot make the clip: {made.stderr}")


def probe(path):
    asked = ["-v", "error", "-of", "json", "-show_streams", "-show_format"]
    seen = subprocess.run(["ffprobe", *asked, path], capture_output=True, text=True, timeout=60)
    expect(seen.returncode == 0, f"ffprobe refuses {path}: {seen.stderr}")
    seen = json.loads(seen.stdout)
    streams = {stream["codec_type"]: stream for stream in seen["streams"]}
    return streams.get("video", {}), streams.get("audio", {}), float(seen["format"]["duration"])


# The story.


def upload(hotcell, clip):
    size = clip.stat().st_size
    wish = {"filename": "my clip.mp4", "contentType": "video/mp4", "fileSize": size}
    slot = hotcell.api("POST", "/v1/upload/presigned-url", wish)
    statuses = []
    for _ in range(2):
        with open(clip, "rb") as file:
            put = urllib.request.Request(slot["uploadUrl"], data=file, method="PUT")
            for name, value in {**slot["headers"], "Content-Length": str(size)}.items():
                put.add_header(name, value)
            try:
                with HTTP.open(put, timeout=60) as answer:
                    statuses.append(answer.status)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
    expect(statuses[0] == 200, f"the store answers {statuses[0]} to the upload")
    expect(statuses[1] in (403, 409, 412), f"a second PUT is answered with {statuses[1]}")
    say("upload", f"{megabytes(clip)} by presigned URL; the same URL again: {statuses[1]}")
    done = hotcell.api(
        "POST", "/v1/upload/confirm", {"filename": slot["filename"], "fileSize": size}
    )
    expect(done["sha256"] == sha256(clip), "the pinned SHA-256 is not the clip's")
    say("confirm", f"{slot['filename']}  sha256 {done['sha256'][:16]}…")
    return slot["filename"]


def download(hotcell, job, record):
    output = record["outputs"][0]
    path = f"/v1/transcodes/{job}/download?output={output['name']}"
    result = DATA / "result.mp4"
    with HTTP.open(hotcell.api("GET", path)["url"], timeout=60) as answer:
        with open(result, "wb") as file:
            shutil.copyfileobj(answer, file)
    found = sha256(result)
    expect(found == output["sha256"], f"the record says {output['sha256']}, the file is {found}")
    video, audio, secs = probe(result)
    expect(video.get("codec_name") == "h264", f"the picture is {video.get('codec_name')}")
    expect(video.get("height") == HEIGHT, f"the picture has {video.get('height')} lines")
    expect(audio.get("codec_name") == "aac", f"the sound is {audio.get('codec_name')}")
    expect(abs(secs - CLIP_SECS) < 0.5, f"the result lasts {secs} s")
    what = f"{video['width']}x{video['height']} {video['codec_name']}+{audio['codec_name']}"
    say("download", f"{megabytes(result)}, {what}, {secs:.1f} s  sha256 {found[:16]}… = record")


def evidence(hotcell, job):
    """The log is written in batches, so the last entry may come a moment after the webhook."""
    seen = {}

    def proven():
        ran = hotcell.cli("audit", "verify", "--job", job, "--json")
        seen["why"] = (ran.stdout + ran.stderr).strip()
        report = json.loads(ran.stdout) if ran.returncode == 0 else {"proofs": []}
        kinds = [str(proof["type"]) for proof in report["proofs"]]
        return all(any(event in kind for kind in kinds) for event in EVENTS) and report

    try:
        report = until(LOG_SECS, "the log does not prove the job", proven)
    except Fail as fail:
        raise Fail(f"{fail}; it says:\n{seen['why']}") from None
    expect(report["sound"] and not report["faults"], "the log is not sound")
    say("evidence", f"{report['entries']} entries, sound; {len(report['proofs'])} of this job, "
        f"each proven to root {report['root'][:16]}…")


def moment(text):
    return datetime.fromisoformat(text).timestamp()


def timeline(job, record, received):
    """(stage, seconds) of the job's states, its worker's steps and the webhook, in order."""
    rows = [(moment(stamp["at"]), stamp["state"]) for stamp in job["timeline"]]
    steps = record["attempts"][-1]["report"]["steps"]
    rows += [(moment(at), f"  {step}") for step, at in steps.items() if at]
    # By time alone: what happened in one millisecond stays in the order of the record.
    rows = sorted([*rows, (received, "webhook received")], key=lambda row: row[0])
    print(f"\n  {'stage':<18}{'at ms':>8}{'+ ms':>8}")
    before = rows[0][0]
    for at, stage in rows:
        print(f"  {stage:<18}{(at - rows[0][0]) * 1000:>8.0f}{(at - before) * 1000:>8.0f}")
        before = at
    print()


def run(hotcell, receiver, began):
    hotcell.wait()
    say("start", f"broker, store and services ready after {(time.monotonic() - began):.1f} s")
    clip = DATA / "clip.mp4"
    make_clip(clip)
    say("clip", f"{CLIP_SIZE} h264+aac, {CLIP_SECS} s, {megabytes(clip)}, made by test sources")
    wish = {"url": receiver.url, "events": ["job.completed", "job.failed", "job.rejected"]}
    token = hotcell.cli("token", "--step-up")
    expect(token.returncode == 0, f"hotcell token --step-up: {token.stderr}")
    hook = hotcell.api("POST", "/v1/webhooks", wish, token.stdout.strip())
    name = upload(hotcell, clip)
    wish = {
        "inputs": [{"url": f"upload:{name}"}],
        "outputFormat": "mp4",
        "preset": {"quality": "medium", "resolution": f"{HEIGHT}p"},
    }
    job = hotcell.api("POST", "/v1/transcodes", wish)["id"]
    say("submit", f"job {job}: {HEIGHT}p mp4, medium")
    try:
        received, headers, body = receiver.arrived.get(timeout=JOB_SECS)
    except queue.Empty:
        shown = hotcell.cli("job", "show", job)
        raise Fail(f"no webhook within {JOB_SECS} s:\n{shown.stdout}{shown.stderr}") from None
    payload = verify_webhook(hook["secret"], headers, body, job)
    expect(payload["type"] == "job.completed", f"the job ended otherwise: {body.decode()}")
    say("webhook", f"{payload['type']}, signature good by the standardwebhooks library")
    now = hotcell.api("GET", f"/v1/transcodes/{job}")
    expect(now["state"] == "completed", f"the job is {now['state']}")
    download(hotcell, job, now)
    evidence(hotcell, job)
    shown = hotcell.cli("job", "show", job)
    expect(shown.returncode == 0 and job in shown.stdout, f"hotcell job show: {shown.stderr}")
    record = hotcell.api("GET", f"/v1/transcodes/{job}/audit")
    attempt = record["attempts"][-1]
    report = attempt["report"]
    expect(not report["degraded"], f"layers of the cell were off: {report['degraded']}")
    used, version = report["encodeCell"], report["ffmpeg"].split(" Copyright")[0]
    memory = used["memoryBytesMax"] / 1e6
    say("cell", f"{version} on {attempt['workerId']}: {used['wallMs']} ms, "
        f"CPU {used['cpuMs']} ms, {memory:.0f} MB")
    argv = " ".join(record["command"])
    say("", f"ffmpeg … {argv[argv.index('-c:v'):][:70]} …")
    timeline(now, record, received)


def main():
    parser = argparse.ArgumentParser(description="one clip through every service of hotcell")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release", metavar="DIR")
    programs = parser.parse_args().bin.resolve()
    began, hotcell = time.monotonic(), None
    print("hotcell demo: one clip through everything\n")
    try:
        fresh_folder()
        receiver = Receiver()
        hotcell = Installation(programs)
        run(hotcell, receiver, began)
        took, processes = hotcell.stop()
        say("stop", f"{processes} processes ended in {took} ms, none is left")
        say("total", f"{time.monotonic() - began:.1f} s; everything is as it should be")
    except (Fail, KeyboardInterrupt) as fail:
        if hotcell:
            hotcell.kill()
        print(f"\nFAILED: {fail or 'interrupted'}\nlogs: {DATA}/up.log, {DATA}/logs", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
