"""Keep images: a kernel, an initial RAM file system and a command line, the same on every build.

`lock` names each package and its digest; `fetch` brings them; `contents` chooses what of them a
keep needs; `cpio` writes it; `build` does it all, into a folder that `folder` reads.
"""
