# Which Python builds and runs the app.

# wanted_version: what the app asks for, `3.12` or `3.12.4`; sets WANTED, and WANTED_IN to the file that says it.
wanted_version() {
  WANTED='' WANTED_IN=''
  if [ -f .python-version ]; then
    WANTED_IN=.python-version
    while read -r line; do
      case $line in '' | '#'*) ;; *) WANTED=${line#python-} && break ;; esac
    done <.python-version
  elif [ -f runtime.txt ]; then
    WANTED_IN=runtime.txt
    read -r WANTED <runtime.txt || :
    WANTED=${WANTED#python-}
  fi
  case $WANTED in
  '' | [0-9] | [0-9].[0-9]* | [0-9].[0-9]*.[0-9]*) ;;
  *) warn "$WANTED_IN doesn't name a version of Python: it is ignored." 'It should read like 3.12 or 3.12.4.' && WANTED='' ;;
  esac
}

# at_home FILE: whether a program lies in somebody's home folder, which an app at run time may not see.
at_home() { case $1 in /root/* | /home/*) return 0 ;; esac; return 1; }

# version_matches VERSION: whether it is what the app wants, or a patch of it.
version_matches() { case $1 in "$WANTED" | "$WANTED".*) return 0 ;; esac; return 1; }

# find_python: sets PYTHON. The version the app asks for where it is installed, else the machine's own; one
# outside home folders before one inside.
find_python() {
  PYTHON=''
  fallback=''
  major_minor=$(printf '%s' "$WANTED" | cut -d. -f1,2)
  old_ifs=$IFS
  IFS=:
  for dir in $PATH; do
    IFS=$old_ifs
    for program in ${WANTED:+"python$major_minor"} python3; do
      candidate=$dir/$program
      [ -x "$candidate" ] || continue
      case $dir in
      */shims) # pyenv's shims are scripts that look at the app's own files: what they would start is taken instead
        root=${dir%/shims}
        [ -f "$root/version" ] || continue
        read -r version <"$root/version" || :
        candidate=$root/versions/$version/bin/python3
        for installed in "$root/versions"/*; do
          ! { [ -n "$WANTED" ] && version_matches "${installed##*/}"; } || candidate=$installed/bin/python3
        done
        [ -x "$candidate" ] || continue
        ;;
      esac
      if [ -n "$WANTED" ] && is_wanted "$candidate"; then
        PYTHON=$candidate
        at_home "$candidate" || return 0
      elif [ -z "$fallback" ] || { at_home "$fallback" && ! at_home "$candidate"; }; then
        fallback=$candidate
      fi
    done
  done
  IFS=$old_ifs
  [ -n "$PYTHON" ] || PYTHON=$fallback
  [ -n "$PYTHON" ]
}

# is_wanted FILE: asks a Python for its version.
is_wanted() { version_matches "$("$1" -c 'import platform; print(platform.python_version())' 2>/dev/null)"; }

# choose_python: sets PYTHON and VERSION. The choice is remembered: asking a Python costs as much as a whole build
# that changes nothing.
choose_python() {
  if [ -f "$STORE/chosen" ]; then
    { IFS= read -r asked && IFS= read -r PYTHON && IFS= read -r known && IFS= read -r VERSION; } <"$STORE/chosen" || asked=''
    if [ "$asked" = "$WANTED $PATH" ] && [ -x "$PYTHON" ] && [ "$known" = "$(identity "$PYTHON")" ]; then return 0; fi
  fi
  find_python || fail "Python isn't installed on this machine." \
    'Install it (Debian, Ubuntu: apt-get install python3 python3-pip python3-venv), then push again.'
  VERSION=$("$PYTHON" -c 'import platform; print(platform.python_version())') || fail "$PYTHON doesn't start."
  printf '%s\n' "$WANTED $PATH" "$PYTHON" "$(identity "$PYTHON")" "$VERSION" >"$STORE/chosen"
}
