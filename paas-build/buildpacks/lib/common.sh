# Shared by the bundled buildpacks; plain POSIX sh. A process costs a millisecond, so what runs on every
# build is done by the shell itself.

BUILDPACK=$(pwd)
BUILD_DIR=$1
CACHE_DIR=$2
ENV_DIR=${3:-}
# The same input gives the same slug: tools that write the time into a file write this one.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-315532800}"

topic() { printf -- '-----> %s\n' "$*"; }
info() { printf '       %s\n' "$*"; }
warn() {
  printf ' !     %s\n' "$1"
  shift
  for line; do printf ' !     %s\n' "$line"; done
}

# fail WHAT [WHAT TO DO...]: ends the build.
fail() {
  printf ' !\n' >&2
  for line; do printf ' !     %s\n' "$line" >&2; done
  printf ' !\n' >&2
  exit 1
}

# run COMMAND...: output indented as it comes; returns the command's own exit status.
run() {
  { run_status=$({ { "$@" 3>&- 4>&- </dev/null 2>&1 && echo 0 >&3 || echo $? >&3; } | sed -u 's/^/       /' >&4; } 3>&1); } 4>&1
  return "$run_status"
}

# config NAME: a config var's value.
config() { [ -n "$ENV_DIR" ] && [ -f "$ENV_DIR/$1" ] && cat "$ENV_DIR/$1"; }

# Names that would change the build itself rather than what is built.
withheld() {
  case $1 in
  PATH | GIT_DIR | CPATH | CPPATH | LD_PRELOAD | LD_LIBRARY_PATH | LIBRARY_PATH | IFS | HOME | TMPDIR | PWD | ENV | BASH_ENV | STACK | REQUEST_ID | DYNO | PORT) return 0 ;;
  BUILD_DIR | CACHE_DIR | ENV_DIR | BUILDPACK) return 0 ;;
  '' | [0-9]* | *[!A-Za-z0-9_]*) return 0 ;;
  esac
  return 1
}

# Puts the app's config vars in the environment of what runs next: the app's own build scripts expect them.
export_config() {
  [ -d "$ENV_DIR" ] || return 0
  for file in "$ENV_DIR"/*; do
    name=${file##*/}
    if [ ! -f "$file" ] || withheld "$name"; then continue; fi
    value=$(cat "$file" && echo .)
    export "$name=${value%.}"
  done
}

# config_named PATTERN...: names and hashes of the config vars whose names match: they steer a package manager.
config_named() {
  matching=''
  [ -d "$ENV_DIR" ] || return 0
  for file in "$ENV_DIR"/*; do
    for pattern; do
      # shellcheck disable=SC2254 # patterns are meant as patterns
      case ${file##*/} in $pattern) matching="$matching ${file##*/}" ;; esac
    done
  done
  # shellcheck disable=SC2086 # names hold no spaces
  [ -z "$matching" ] || (cd "$ENV_DIR" && hash_of $matching)
}

# A cache entry is used when the facts it was made under are still true. Facts are lines of `what<TAB>value`.
FACTS=''
TAB=$(printf '\t')
fact() {
  FACTS="$FACTS$1$TAB$2
"
}

# facts_hold FILE: whether the facts in FILE are today's; where they aren't, says which one changed.
facts_hold() {
  if [ ! -f "$1" ]; then return 1; fi
  stored=''
  while IFS= read -r line; do stored="$stored$line
"; done <"$1"
  [ "$stored" != "$FACTS" ] || return 0
  info 'Not reusing what was installed before:'
  while IFS=$TAB read -r what value; do
    case $stored in
    *"$what$TAB$value
"*) ;;
    *) info "- $what changed" ;;
    esac
  done <<END
${FACTS%?}
END
  return 1
}

# hash_of FILE...: names and hashes of those that are there, on one line.
hash_of() {
  have=''
  for file; do [ ! -f "$file" ] || have="$have $file"; done
  [ -n "$have" ] || return 0
  # shellcheck disable=SC2086,SC2046 # the callers' names hold no spaces
  set -- $(sha256sum $have)
  printf '%s\n' "$*"
}

# identity FILE...: path, size and time of programs: tells another version without starting one.
identity() { stat -L -c '%n %s %Y' "$@"; }

# copy_tree FROM TO: the same tree again, which may be changed in place. Hard links would do with half the time (16 ms
# for express with its 771 files, of a push of 370 ms), but not safely: the cache is a layer over what the last good
# build kept, where a link copies its file up, and links into what is kept would let a build that fails write there.
copy_tree() {
  rm -rf "$2"
  cp -a --reflink=auto "$1" "$2" 2>/dev/null || {
    rm -rf "$2"
    cp -a "$1" "$2"
  }
}

# profile NAME: a script that the app's processes source when they start; the text comes from stdin.
profile() {
  [ -d "$BUILD_DIR/.profile.d" ] || mkdir -p "$BUILD_DIR/.profile.d"
  while IFS= read -r line; do printf '%s\n' "$line"; done >"$BUILD_DIR/.profile.d/$1"
}

# release: what bin/release prints; the text comes from stdin.
release() {
  while IFS= read -r line; do printf '%s\n' "$line"; done >"$BUILDPACK/release.yml"
}

# find_program NAME...: sets FOUND to the first on PATH, without starting a process for it.
find_program() {
  old_ifs=$IFS
  for program; do
    IFS=:
    for dir in $PATH; do
      if [ -f "$dir/$program" ] && [ -x "$dir/$program" ]; then
        FOUND=$dir/$program IFS=$old_ifs
        return 0
      fi
    done
  done
  FOUND='' IFS=$old_ifs
  return 1
}

# on_path FILE: sets PATH_LINE to the `export PATH` for a program outside the folders that are always searched.
on_path() {
  case ${1%/*} in
  /usr/local/bin | /usr/bin | /bin) PATH_LINE='' ;;
  *) PATH_LINE="export PATH=\"${1%/*}:\$PATH\"" ;;
  esac
}

# quote TEXT: as a double-quoted YAML scalar.
quote() { printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')"; }

# without_processes EXAMPLE: says so when nothing tells how to start the app.
without_processes() {
  [ -f "$BUILD_DIR/Procfile" ] ||
    warn 'Nothing says how to start this app.' "Add a file named Procfile, for example: $1"
}
