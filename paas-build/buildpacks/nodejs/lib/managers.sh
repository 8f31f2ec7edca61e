# The package managers: which one the app uses, how it installs and how it prunes.

# choose_manager: by the lock file. Sets MANAGER, MANAGER_FILE (the program) and LOCKS (all that steers it).
choose_manager() {
  LOCKS=''
  for file in package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml pnpm-workspace.yaml .npmrc .yarnrc .yarnrc.yml; do
    [ ! -f "$file" ] || LOCKS="$LOCKS $file"
  done
  MANAGER=npm
  [ ! -f yarn.lock ] || MANAGER=yarn
  [ ! -f pnpm-lock.yaml ] || MANAGER=pnpm
  if [ -f package-lock.json ] || [ -f npm-shrinkwrap.json ]; then
    [ $MANAGER = npm ] || warn "There is a lock file of npm and one of $MANAGER: npm is used." 'Delete the lock file that is not meant.'
    MANAGER=npm
  fi
  find_program $MANAGER corepack || :
  MANAGER_FILE=$FOUND
}

# call ARGUMENT...: the package manager, from the machine or by corepack.
call() {
  case $MANAGER_FILE in
  */corepack) COREPACK_HOME="$STORE/corepack" COREPACK_ENABLE_DOWNLOAD_PROMPT=0 "$MANAGER_FILE" "$MANAGER" "$@" ;;
  *) "$MANAGER_FILE" "$@" ;;
  esac
}

need_manager() {
  [ -n "$MANAGER_FILE" ] || fail "This app's lock file is one of $MANAGER, and $MANAGER isn't on this machine." \
    "Install it ($([ "$MANAGER" = npm ] && echo 'Debian, Ubuntu: apt-get install npm' || echo "npm install --global $MANAGER")), then push again."
  if [ "$MANAGER" = yarn ] && [ -f .yarnrc.yml ]; then MANAGER_STYLE=berry; else MANAGER_STYLE=$MANAGER; fi
}

# install: everything, development tools included, since the app's build may need them.
install() {
  case $MANAGER_STYLE in
  npm)
    export npm_config_cache="$STORE/npm" npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false npm_config_loglevel=error
    if [ -f package-lock.json ] || [ -f npm-shrinkwrap.json ]; then
      info 'Installing node modules (npm ci)'
      run npm ci --include=dev || return 1
    else
      info 'Installing node modules (npm install, as there is no package-lock.json)'
      run npm install --include=dev --no-package-lock || return 1
      warn 'No package-lock.json: two builds may install different versions.' 'Run `npm install`, then commit package-lock.json.'
    fi
    ;;
  yarn)
    info 'Installing node modules (yarn install)'
    run call install --frozen-lockfile --production=false --ignore-engines --non-interactive --cache-folder "$STORE/yarn"
    ;;
  berry)
    info 'Installing node modules (yarn install)'
    export YARN_GLOBAL_FOLDER="$STORE/berry" YARN_ENABLE_TELEMETRY=0
    run call install --immutable
    ;;
  pnpm)
    info 'Installing node modules (pnpm install)'
    run call install --frozen-lockfile --prod=false --store-dir "$STORE/pnpm"
    ;;
  esac
}

# prune: takes the development tools out.
prune() {
  case $MANAGER_STYLE in
  npm) run npm prune --omit=dev --ignore-scripts --no-package-lock ;;
  yarn) run call install --frozen-lockfile --production=true --ignore-engines --ignore-scripts --non-interactive --prefer-offline --cache-folder "$STORE/yarn" ;;
  berry) info "Keeping development dependencies (this yarn has no way to prune without a network)" ;;
  pnpm) CI=1 run call prune --prod --ignore-scripts ;;
  esac
}
