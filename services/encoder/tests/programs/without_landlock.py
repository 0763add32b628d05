"""Runs a program as on a kernel without Landlock: landlock_create_ruleset answers ENOSYS.

The seccomp filter (seccomp(2)) is inherited by all that the program starts. No part of hotcell.
"""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LD_NR, JEQ, RET = 0x20, 0x15, 0x06
LANDLOCK_CREATE_RULESET = 444  # of x86-64 and of aarch64
ERRNO_ENOSYS, ALLOW = 0x00050000 | 38, 0x7FFF0000


def instruction(code, yes, no, value):
    return struct.pack("HBBI", code, yes, no, value)


program = b"".join(
    [
        instruction(LD_NR, 0, 0, 0),
        instruction(JEQ, 0, 1, LANDLOCK_CREATE_RULESET),
        instruction(RET, 0, 0, ERRNO_ENOSYS),
        instruction(RET, 0, 0, ALLOW),
    ]
)
held = ctypes.create_string_buffer(program, len(program))
filters = struct.pack("HxxxxxxQ", 4, ctypes.addressof(held))
libc = ctypes.CDLL(None, use_errno=True)
for arguments in [
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(filters, len(filters)), 0, 0),
]:
    if libc.prctl(*arguments) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
