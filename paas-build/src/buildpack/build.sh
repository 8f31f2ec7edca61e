# Runs buildpacks over BUILD_DIR, inside the sandbox: one shell for the whole build.
#   bash -c THIS paas-build BUILD_DIR CACHE_DIR ENV_DIR RESULT_DIR PACK...
# Config vars come on stdin, as NAME NUL VALUE NUL. What the platform wants to know goes into files of RESULT_DIR:
# detected, failed, release.

exec 2>&1 # one stream, so that lines keep their order
build=$1 cache=$2 env=$3 result=$4
shift 4

umask 077
mkdir -p "$env"
while IFS= read -r -d '' name && IFS= read -r -d '' value; do printf %s "$value" >"$env/$name"; done
exec </dev/null
umask 022

exports=()
# What earlier packs export reaches later ones, but neither bin/release nor bin/report.
with_exports() {
  for file in "${exports[@]}"; do . "$file"; done
}
failed() {
  printf '%s\n' "$@" >"$result/failed"
  exit 1
}

number=0
for pack; do
  name=$(cd "$pack" && with_exports && cd "$pack" && exec ./bin/detect "$build") || failed detect "$number" "$?"
  printf '%s\t%s\n' "$number" "${name%%$'\n'*}" >>"$result/detected"
  printf -- '-----> %s app detected\n' "${name%%$'\n'*}"
  (cd "$pack" && with_exports && cd "$pack" && exec ./bin/compile "$build" "$cache" "$env")
  status=$?
  if [ -x "$pack/bin/report" ]; then
    (cd "$pack" && exec ./bin/report "$build" "$cache" "$env") >"$result/report" 2>/dev/null
  fi
  [ "$status" = 0 ] || failed compile "$number" "$status"
  if [ -f "$pack/export" ]; then exports+=("$pack/export"); fi
  if [ -x "$pack/bin/release" ]; then
    (cd "$pack" && exec ./bin/release "$build") >"$result/release" || failed release "$number" "$?"
  fi
  number=$((number + 1))
done
