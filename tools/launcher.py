"""Write the checkout's `garrison`, which starts Python without `site`.

    python tools/launcher.py

The script that pip makes works as well. But what `site` does before a program's first line takes
a tenth of a small guest's whole start, and `-I` keeps the variables and directories of whoever
calls from choosing the code that runs. What needs `site` (every command but the short way to
`run`) has `garrison.__main__` start it.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

_SCRIPT = """\
#!{python} -IS
import sys
sys.path += {path!r}
from garrison.__main__ import main
sys.exit(main())
"""
# execve(2): a longer first line is cut. A space would end the interpreter's name.
_MAX_LINE = 127


def main() -> None:
    """Replace the script beside the interpreter, if its path can stand in a first line."""
    source = Path(__file__).resolve().parent.parent / "src"
    path = [str(source), sysconfig.get_path("purelib")]
    text = _SCRIPT.format(python=sys.executable, path=path)
    line = text.partition("\n")[0]
    if len(line) > _MAX_LINE or " " in sys.executable:
        return
    script = Path(sys.executable).parent / "garrison"
    temporary = script.with_name(f".{script.name}.new")
    temporary.write_text(text)
    temporary.chmod(0o755)
    temporary.replace(script)


if __name__ == "__main__":
    main()
