"""Write the checkout's `garrison`, which starts Python without `site`.

    python tools/launcher.py

The script that pip makes works as well. But what `site` does before a program's first line takes
a tenth of a small guest's whole start, and `-I` keeps the variables and directories of whoever
calls from choosing the code that runs. `-X utf8` reads words as UTF-8 whatever the locale, which
also saves asking the C library for each. What needs `site` (every command but the short way to
`run`) has `garrison.__main__` start it. The short way's modules come from one file beside the
packages (`garrison.prepared`), which saves a fifth of that start; without the file, or where it is
not up to date, they are imported one by one. All of that lives to the end, so it is kept from the
collector of garbage.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

_SCRIPT = """\
#!{python} -ISXutf8
import sys
sys.path += {path!r}
if sys.argv[1:2] == ["run"]:
    import gc, marshal
    gc.disable()
    try:
        with open({prepared!r}, "rb") as file:
            code, entries = marshal.loads(file.read())
    except OSError:
        pass
    else:
        exec(code, names := {{"__name__": "garrison.prepared"}})
        names["load"](entries)
    gc.freeze()
    gc.enable()
from garrison.__main__ import main
sys.exit(main())
"""
# execve(2): a longer first line is cut. A space would end the interpreter's name.
_MAX_LINE = 127


def main() -> None:
    """Replace the script beside the interpreter, if its path can stand in a first line."""
    source = Path(__file__).resolve().parent.parent / "src"
    path = [str(source), sysconfig.get_path("purelib")]
    prepared = Path(sysconfig.get_path("purelib")) / "garrison.prepared"
    text = _SCRIPT.format(python=sys.executable, path=path, prepared=str(prepared))
    line = text.partition("\n")[0]
    if len(line) > _MAX_LINE or " " in sys.executable:
        return
    temporary = prepared.with_name(f".{prepared.name}.new")
    program = str(source / "garrison" / "prepared.py")
    subprocess.run([sys.executable, "-IS", program, str(temporary), *path], check=True)
    temporary.replace(prepared)
    script = Path(sys.executable).parent / "garrison"
    temporary = script.with_name(f".{script.name}.new")
    temporary.write_text(text)
    temporary.chmod(0o755)
    temporary.replace(script)


if __name__ == "__main__":
    main()
