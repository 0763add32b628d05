#!/usr/bin/env python3
"""Verify a hotcell audit log with nothing but the Python standard library.

usage: verify.py VKEY FOLDER

Knows only the verifier key (name+hash+base64) and the files. Checks the checkpoint's Ed25519
signature (RFC 8032), recomputes the root from the entry bundles (RFC 6962), compares every level 0
tile, and every record with the hash in its leaf. Exits 1 and says what is wrong.
"""
import base64
import hashlib
import json
import pathlib
import sys

# --- Ed25519 verification, RFC 8032 section 5.1.7 ---
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P != 0:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P != 0:
        return None
    return P - x if (x & 1) != sign else x


def add(a, b):
    u, v = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = v - u, d - c, d + c, v + u
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def mul(s, a):
    q = (0, 1, 1, 0)
    while s > 0:
        if s & 1:
            q = add(q, a)
        a, s = add(a, a), s >> 1
    return q


def point(data):
    y = int.from_bytes(data, "little")
    x = recover_x(y & ((1 << 255) - 1), y >> 255)
    y &= (1 << 255) - 1
    return None if x is None else (x, y, 1, x * y % P)


BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519_verify(public, message, signature):
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r, s = point(public), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    left, right = mul(s, BASE), add(r, mul(h, a))
    same_x = (left[0] * right[2] - right[0] * left[2]) % P == 0
    return same_x and (left[1] * right[2] - right[1] * left[2]) % P == 0


# --- the log ---
def fail(why):
    print("FAIL:", why)
    sys.exit(1)


def open_note(note, vkey):
    name, key_hash, data = vkey.split("+", 2)
    data = base64.b64decode(data, validate=True)
    if data[0] != 1:
        fail("the verifier key is not Ed25519")
    key_id = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
    if key_id.hex() != key_hash:
        fail("the verifier key's hash is wrong")
    text, _, signatures = note.rpartition(b"\n\n")
    text += b"\n"
    for line in signatures.decode().splitlines():
        dash, who, signature = line.split(" ")
        signature = base64.b64decode(signature, validate=True)
        if dash == "\u2014" and who == name and signature[:4] == key_id:
            if not ed25519_verify(data[1:], text, signature[4:]):
                fail("the checkpoint's signature is wrong")
            return text.decode()
    fail("the checkpoint is not signed by this key")


def leaf_hash(leaf):
    return hashlib.sha256(b"\0" + leaf).digest()


def push(stack, size, node):
    while size & 1:
        node = hashlib.sha256(b"\1" + stack.pop() + node).digest()
        size >>= 1
    stack.append(node)


def index_path(n):
    path, n = "%03d" % (n % 1000), n // 1000
    while n:
        path, n = "x%03d/%s" % (n % 1000, path), n // 1000
    return path


def split(data, length_bytes):
    rows = []
    while data:
        n = int.from_bytes(data[:length_bytes], "big")
        row, data = data[length_bytes : length_bytes + n], data[length_bytes + n :]
        if len(row) != n:
            fail("a bundle is cut")
        rows.append(row)
    return rows


def main(vkey, folder):
    folder = pathlib.Path(folder)
    lines = open_note((folder / "checkpoint").read_bytes(), vkey).splitlines()
    if lines[0] != vkey.split("+")[0]:
        fail("the checkpoint is of another log")
    size, root = int(lines[1]), base64.b64decode(lines[2], validate=True)
    stack, last_seq = [], 0
    for n in range((size + 255) // 256):
        width = min(256, size - n * 256)
        place = index_path(n) + ("" if width == 256 else ".p/%d" % width)
        leaves = split((folder / "tile/entries" / place).read_bytes(), 2)
        if len(leaves) != width:
            fail("bundle tile/entries/%s has %d leaves" % (place, len(leaves)))
        hashes = [leaf_hash(leaf) for leaf in leaves]
        tile = (folder / "tile/0" / place).read_bytes()
        if len(tile) != 32 * width:
            fail("tile/0/%s has a wrong length" % place)
        records = {}
        for bundle in sorted((folder / "records" / index_path(n)).iterdir()):
            first, last = map(int, bundle.name.split("-"))
            magic, data = bundle.read_bytes().split(b"\n", 1)
            rows = split(data, 4)
            if magic != b"hotcell-records/1" or len(rows) != last - first + 1:
                fail("%s is damaged" % bundle)
            records.update(zip(range(first, last + 1), rows))
        for row, (leaf, node) in enumerate(zip(leaves, hashes)):
            index = n * 256 + row
            if tile[row * 32 : row * 32 + 32] != node:
                fail("leaf %d differs from hash %d of tile/0/%s" % (index, row, place))
            leaf = json.loads(leaf)
            if leaf["seq"] <= last_seq:
                fail("leaf %d: sequence out of order" % index)
            last_seq = leaf["seq"]
            record = records.get(index)
            if record is None or "sha256:" + hashlib.sha256(record).hexdigest() != leaf["rec"]:
                fail("record %d is not the one its leaf commits to" % index)
            push(stack, index, node)
    node = stack.pop() if stack else hashlib.sha256(b"").digest()
    while stack:
        node = hashlib.sha256(b"\1" + stack.pop() + node).digest()
    if node != root:
        fail("the leaves give another root than the signed one")
    if "seq %d" % last_seq not in lines[3:]:
        fail("the checkpoint says another last sequence")
    print("OK size %d root %s" % (size, root.hex()))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        fail("unreadable: %r" % error)
