#!/bin/sh
# Print the Python to install into: `python3`, or Debian's own where that one was built without
# optimisation, as pyenv does by itself: each call of a guest then takes a third longer.
slow='
import sys, sysconfig
sys.exit("--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""))'
fits='
import sys, ensurepip, venv
sys.exit(sys.version_info < (3, 11))'
found=$(command -v python3 || echo python3)
system=/usr/bin/python3
if [ "$found" != "$system" ] && "$found" -c "$slow" 2>/dev/null &&
  "$system" -c "$fits" 2>/dev/null; then
  echo "$found was built without optimisation: taking $system (make PYTHON=... takes another)" >&2
  found=$system
fi
echo "$found"
