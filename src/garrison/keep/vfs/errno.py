"""Error numbers of WASI preview 1, and the exception that carries one to the guest.

The guest is told the number and nothing else.
"""

# WASI preview 1, typename `errno`: a name's place is its number.
_NAMES = """
SUCCESS 2BIG ACCES ADDRINUSE ADDRNOTAVAIL AFNOSUPPORT AGAIN ALREADY BADF BADMSG BUSY CANCELED
CHILD CONNABORTED CONNREFUSED CONNRESET DEADLK DESTADDRREQ DOM DQUOT EXIST FAULT FBIG
HOSTUNREACH IDRM ILSEQ INPROGRESS INTR INVAL IO ISCONN ISDIR LOOP MFILE MLINK MSGSIZE MULTIHOP
NAMETOOLONG NETDOWN NETRESET NETUNREACH NFILE NOBUFS NODEV NOENT NOEXEC NOLCK NOLINK NOMEM
NOMSG NOPROTOOPT NOSPC NOSYS NOTCONN NOTDIR NOTEMPTY NOTRECOVERABLE NOTSOCK NOTSUP NOTTY NXIO
OVERFLOW OWNERDEAD PERM PIPE PROTO PROTONOSUPPORT PROTOTYPE RANGE ROFS SPIPE SRCH STALE
TIMEDOUT TXTBSY XDEV NOTCAPABLE
"""
NAMES = tuple(_NAMES.split())

ACCES = 2
AGAIN = 6
BADF = 8
BADMSG = 9
BUSY = 10
EXIST = 20
FAULT = 21
FBIG = 22
ILSEQ = 25
INVAL = 28
IO = 29
ISDIR = 31
LOOP = 32
MSGSIZE = 35
MFILE = 33
NAMETOOLONG = 37
NOENT = 44
NOMEM = 48
NOSPC = 51
NOTDIR = 54
NOTEMPTY = 55
NOTSOCK = 57
NOTSUP = 58
OVERFLOW = 61
PERM = 63
PROTO = 65
ROFS = 69
SPIPE = 70
TIMEDOUT = 73
XDEV = 75
NOTCAPABLE = 76


class Errno(Exception):
    """A call fails with this number.

    Args:
        number: of WASI, not of the host.
    """

    def __init__(self, number: int) -> None:
        # Without the base's own, for a guest can fail a million times a second.
        self.number = number

    def __str__(self) -> str:
        return NAMES[self.number]


def of_host(error: OSError) -> int:
    """The number that tells a guest of the host's `error`; `IO` if WASI has no such one."""
    import errno as host  # late: few guests meet one

    name = host.errorcode.get(error.errno or 0, "")[1:]
    if name in NAMES:
        return NAMES.index(name)
    return TIMEDOUT if isinstance(error, TimeoutError) else IO
