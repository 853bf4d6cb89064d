"""The program between us and a child: binds the child's life to its parent's, then becomes the child.

``python -m doorward.runtime.child PARENT_PID PROGRAM [ARGUMENT…]``. It asks the kernel to end it when its parent ends
(PR_SET_PDEATHSIG, which survives ``exec``), so that not even ``kill -9`` of the parent leaves orphans. A ``preexec_fn``
would do the same, and would deadlock in a process with gRPC's threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arrange the end, check that the parent still lives, and become the program."""
    parent = int(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(0)  # the parent ended before we could ask
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # no shell is wanted here


if __name__ == "__main__":
    main()
