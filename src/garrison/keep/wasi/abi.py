"""The binary interface of WASI preview 1: signatures, and the numbers that several parts use.

Source: the WASI repository, legacy/preview1 (witx `wasi_snapshot_preview1`). Offsets of
structures stand where they are read and written.
"""

MODULE = "wasi_snapshot_preview1"

# Parameters of each function, in `struct` letters (I, Q: unsigned 32 and 64 bits; q: signed).
# All but `proc_exit` return an errno.
SIGNATURES = {
    "args_get": "II",
    "args_sizes_get": "II",
    "clock_res_get": "II",
    "clock_time_get": "IQI",
    "environ_get": "II",
    "environ_sizes_get": "II",
    "fd_advise": "IQQI",
    "fd_allocate": "IQQ",
    "fd_close": "I",
    "fd_datasync": "I",
    "fd_fdstat_get": "II",
    "fd_fdstat_set_flags": "II",
    "fd_fdstat_set_rights": "IQQ",
    "fd_filestat_get": "II",
    "fd_filestat_set_size": "IQ",
    "fd_filestat_set_times": "IQQI",
    "fd_pread": "IIIQI",
    "fd_prestat_dir_name": "III",
    "fd_prestat_get": "II",
    "fd_pwrite": "IIIQI",
    "fd_read": "IIII",
    "fd_readdir": "IIIQI",
    "fd_renumber": "II",
    "fd_seek": "IqII",
    "fd_sync": "I",
    "fd_tell": "II",
    "fd_write": "IIII",
    "path_create_directory": "III",
    "path_filestat_get": "IIIII",
    "path_filestat_set_times": "IIIIQQI",
    "path_link": "IIIIIII",
    "path_open": "IIIIIQQII",
    "path_readlink": "IIIIII",
    "path_remove_directory": "III",
    "path_rename": "IIIIII",
    "path_symlink": "IIIII",
    "path_unlink_file": "III",
    "poll_oneoff": "IIII",
    "proc_exit": "I",
    "proc_raise": "I",
    "random_get": "II",
    "sched_yield": "",
    "sock_accept": "III",
    "sock_recv": "IIIIII",
    "sock_send": "IIIII",
    "sock_shutdown": "II",
}
NO_RESULT = ("proc_exit",)
# What a server calls for each message (`direct`).
DIRECT = ("fd_read", "fd_write", "sock_recv", "sock_send")

# Each group of functions is a module of this package, imported only if a guest imports from it.
GROUPS = {
    "args": "process",
    "environ": "process",
    "clock": "process",
    "random": "process",
    "sched": "process",
    "proc": "process",
    "fd": "descriptors",
    "path": "paths",
    "sock": "sockets",
    "poll": "poll",
}

# `fdflags`
APPEND = 1
NONBLOCK = 4
FDFLAGS = 0x1F

# `oflags`
CREATE = 1
DIRECTORY = 2
EXCLUSIVE = 4
TRUNCATE = 8
OFLAGS = 0xF

# `lookupflags`
FOLLOW = 1

# `clockid`: also the host's number of it.
CLOCKS = (0, 1, 2, 3)

# `fstflags`
ATIM = 1
ATIM_NOW = 2
MTIM = 4
MTIM_NOW = 8
