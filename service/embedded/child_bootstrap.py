"""Bootstrap of a child process: switches to its account, ties its life to the parent's, then executes the program.

Run as a script by `managed_process`, never imported; imports nothing of this project. A separate program rather than a
`preexec_fn`, because that runs Python between fork and exec, which is unsafe in a process with threads.
"""

import ctypes
import json
import os
import sys

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1


def bootstrap(way: str, uid: int, gid: int) -> None:
    """Stop being root, in the way that `account` chose."""
    if way == "drop":
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    elif way == "namespace":
        outside_uid, outside_gid = os.geteuid(), os.getegid()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "no user namespace")
        for name, text in (
            ("setgroups", "deny"),  # the kernel requires this before a map of groups
            ("uid_map", f"{uid} {outside_uid} 1"),
            ("gid_map", f"{gid} {outside_gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)


def die_with_parent(parent_pid: int, death_signal: int) -> None:
    """Have the kernel send `death_signal` when the parent dies. Linux only; elsewhere the watchdog of
    `managed_process` acts."""
    if sys.platform == "linux":
        # After switching accounts, because a change of user clears it; exec does not.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent_pid:  # the parent died before the call
        os._exit(1)


def main() -> None:
    """Run `child_bootstrap.py TERMS PROGRAM [ARGUMENT ...]`; TERMS is the JSON that `managed_process` writes."""
    terms = json.loads(sys.argv[1])
    command = sys.argv[2:]
    try:
        os.umask(0o077)  # new files are for the owner alone
        bootstrap(terms["way"], terms["uid"], terms["gid"])
        die_with_parent(terms["parent_pid"], terms["death_signal"])
        os.execv(command[0], command)  # noqa: S606 - no shell is needed
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error}\n")
        os._exit(126)


if __name__ == "__main__":
    main()
