# Installing into an environment inside the app: $ENVIRONMENT. It works from any folder, because an environment
# finds itself by the place of its own python3.

# choose_manager: sets MANAGER (uv or pip), UV, and LOCKS (every file that steers the installation).
choose_manager() {
  find_program uv || :
  UV=$FOUND
  MANAGER=pip
  if [ -f uv.lock ] && [ -f pyproject.toml ]; then
    if [ -n "$UV" ]; then
      MANAGER=uv
    elif [ ! -f requirements.txt ]; then
      warn "There is a uv.lock, but uv isn't on this machine: pip installs what pyproject.toml lists," \
        'which may be other versions than the locked ones. Install uv to get exactly those.'
    fi
  fi
  if [ "$MANAGER" = uv ]; then
    LOCKS='uv.lock pyproject.toml'
  elif [ -f requirements.txt ]; then
    # A requirements file may include others.
    LOCKS='requirements.txt'
    for file in requirements/*.txt requirements-*.txt constraints*.txt; do
      case $file in *[!A-Za-z0-9_./-]*) ;; *) [ ! -f "$file" ] || LOCKS="$LOCKS $file" ;; esac
    done
  elif [ -f pyproject.toml ]; then
    LOCKS=pyproject.toml
  elif [ -f Pipfile ] || [ -f poetry.lock ]; then
    fail 'This buildpack installs from requirements.txt, uv.lock or pyproject.toml; none of them is here.' \
      'Write one (`pipenv requirements > requirements.txt`, or `poetry export -o requirements.txt`) and commit it.'
  else
    LOCKS=''
  fi
}

pip() {
  if "$PYTHON" -c 'import pip' 2>/dev/null; then
    run "$PYTHON" -m pip --python "$ENVIRONMENT/bin/python3" "$@"
  elif [ -n "$UV" ]; then
    shift # `install`
    VIRTUAL_ENV=$ENVIRONMENT run "$UV" pip install --cache-dir "$STORE/uv" --no-progress "$@"
  else
    fail "$PYTHON has no pip, and uv isn't on this machine." \
      'Install one of them (Debian, Ubuntu: apt-get install python3-pip), then push again.'
  fi
}

install() {
  rm -rf "$ENVIRONMENT"
  mkdir -p "${ENVIRONMENT%/*}"
  run "$PYTHON" -m venv --without-pip "$ENVIRONMENT" ||
    fail "$PYTHON can't make a virtual environment." 'Install it whole (Debian, Ubuntu: apt-get install python3-venv), then push again.'
  export PIP_CACHE_DIR="$STORE/pip" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_ROOT_USER_ACTION=ignore PIP_NO_COMPILE=1
  if [ "$MANAGER" = uv ]; then
    info 'Installing dependencies with uv (uv sync)'
    UV_PROJECT_ENVIRONMENT=$ENVIRONMENT UV_CACHE_DIR=$STORE/uv UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy \
      run "$UV" sync --locked --no-default-groups --no-install-project --no-progress --python "$ENVIRONMENT/bin/python3" || return 1
  elif [ -f requirements.txt ]; then
    info 'Installing requirements with pip'
    pip install -r requirements.txt || return 1
  elif [ -f pyproject.toml ]; then
    info 'Installing the dependencies of pyproject.toml with pip'
    listed=0
    "$PYTHON" "$BUILDPACK/lib/requirements.py" >"$STORE/listed.txt" 2>"$STORE/listed.err" || listed=$?
    case $listed in
    0) [ ! -s "$STORE/listed.txt" ] || pip install -r "$STORE/listed.txt" || return 1 ;;
    3) pip install . || return 1 ;;
    *) fail "$(cat "$STORE/listed.err")" 'Correct the file, commit and push again.' ;;
    esac
  fi
  relocate
}

# relocate: what was installed runs from any folder, and is the same for the same versions: programs look for the
# environment's Python on PATH, and compiled files hold no time.
relocate() {
  rm -f "$ENVIRONMENT"/bin/activate* "$ENVIRONMENT"/bin/Activate.ps1
  for program in "$ENVIRONMENT"/bin/*; do
    [ ! -f "$program" ] || [ -h "$program" ] || sed -i \
      -e '1s|^#!.*/bin/python[0-9.]*|#!/usr/bin/env python3|' \
      -e "2s|^'''exec' .*/bin/python[0-9.]*\"\{0,1\} |'''exec' python3 |" "$program"
  done
  "$ENVIRONMENT/bin/python3" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$ENVIRONMENT/lib" >/dev/null 2>&1 ||
    : # a package may ship files for another Python, which don't compile
}
