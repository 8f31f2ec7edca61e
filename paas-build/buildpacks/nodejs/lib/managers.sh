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
  find_program $MANAGER || :
  MANAGER_FILE=$FOUND
  # One that was fetched for an earlier build of this app.
  [ -n "$MANAGER_FILE" ] || [ ! -x "$STORE/tools/node_modules/.bin/$MANAGER" ] || MANAGER_FILE=$STORE/tools/node_modules/.bin/$MANAGER
}

# need_manager: makes sure that it is there. npm fetches the others, of the version that package.json asks for.
need_manager() {
  MANAGER_STYLE=$MANAGER
  [ "$MANAGER" != yarn ] || [ ! -f .yarnrc.yml ] || MANAGER_STYLE=berry
  [ -z "$MANAGER_FILE" ] || return 0
  find_program npm || fail "This app needs $MANAGER to install its dependencies, and neither it nor npm is on this machine." \
    'Install it (Debian, Ubuntu: apt-get install npm), then push again.'
  case $MANAGER_STYLE:$PLAN_MANAGER in
  *:"$MANAGER"@*) package=$PLAN_MANAGER ;;
  pnpm:*) package=pnpm@10 ;;
  *) package=yarn@1 ;; # also starts the yarn that .yarnrc.yml names
  esac
  case $package in yarn@[2-9]*) package=@yarnpkg/cli-dist@${package#yarn@} ;; esac
  info "Fetching $package, as there is no $MANAGER on this machine"
  run npm install --prefix "$STORE/tools" --no-save --no-audit --no-fund --loglevel=error "$package" ||
    fail "$package could not be fetched." "Install $MANAGER on this machine (npm install --global $MANAGER), then push again."
  MANAGER_FILE=$STORE/tools/node_modules/.bin/$MANAGER
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
    run "$MANAGER_FILE" install --frozen-lockfile --production=false --ignore-engines --non-interactive --cache-folder "$STORE/yarn"
    ;;
  berry)
    info 'Installing node modules (yarn install)'
    export YARN_GLOBAL_FOLDER="$STORE/berry" YARN_ENABLE_TELEMETRY=0
    run "$MANAGER_FILE" install --immutable
    ;;
  pnpm)
    info 'Installing node modules (pnpm install)'
    run "$MANAGER_FILE" install --frozen-lockfile --prod=false --store-dir "$STORE/pnpm"
    ;;
  esac
}

# prune: takes the development tools out.
prune() {
  case $MANAGER_STYLE in
  npm)
    run npm prune --omit=dev --ignore-scripts || return 1
    [ -n "$LOCKS" ] || rm -f package-lock.json # what pruning found out is nobody's promise
    ;;
  yarn) run "$MANAGER_FILE" install --frozen-lockfile --production=true --ignore-engines --ignore-scripts --non-interactive --prefer-offline --cache-folder "$STORE/yarn" ;;
  berry) info "Keeping development dependencies (this yarn has no way to prune without a network)" ;;
  pnpm) CI=1 run "$MANAGER_FILE" prune --prod --ignore-scripts ;;
  esac
}
