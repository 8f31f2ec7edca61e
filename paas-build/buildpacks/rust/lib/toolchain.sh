# Which cargo builds the app.

# find_toolchain: sets CARGO and puts its folder first on PATH. rustup's own programs are only doors to a toolchain
# and want to write in its home, which a build can't; so the toolchain behind the door is taken.
find_toolchain() {
  find_program cargo || fail "Rust isn't installed on this machine." 'Install it (https://rustup.rs), then push again.'
  CARGO=$FOUND
  home=${RUSTUP_HOME:-}
  if [ -z "$home" ]; then
    case $CARGO in
    */.cargo/bin/cargo) home=${CARGO%/.cargo/bin/cargo}/.rustup ;;
    */cargo/bin/cargo) home=${CARGO%/cargo/bin/cargo}/rustup ;;
    esac
  fi
  if [ -n "$home" ] && [ -f "$home/settings.toml" ]; then
    wanted_toolchain
    default=$(sed -n 's/^default_toolchain = "\(.*\)"/\1/p' "$home/settings.toml")
    # A toolchain's folder is named by its channel and platform: `1.90.0-x86_64-unknown-linux-gnu`.
    chosen=''
    for folder in ${WANTED:+"$home/toolchains/$WANTED" "$home/toolchains/$WANTED"-*} "$home/toolchains/$default" "$home/toolchains"/*; do
      if [ -x "$folder/bin/cargo" ]; then chosen=$folder && break; fi
    done
    if [ -n "$chosen" ]; then
      case ${chosen##*/} in
      "$WANTED" | "$WANTED"-*) ;;
      *) [ -z "$WANTED" ] || warn "$WANTED_IN asks for Rust $WANTED, this machine has ${chosen##*/}." \
        "The app is built with the one there is. Install the other (rustup toolchain install $WANTED), or change $WANTED_IN." ;;
      esac
      CARGO=$chosen/bin/cargo
    fi
  fi
  export PATH="${CARGO%/*}:$PATH"
}

# wanted_toolchain: sets WANTED and WANTED_IN by the app's toolchain file.
wanted_toolchain() {
  WANTED='' WANTED_IN=''
  for file in rust-toolchain.toml rust-toolchain; do
    [ -f "$file" ] || continue
    WANTED_IN=$file
    WANTED=$(sed -n 's/^[[:space:]]*channel[[:space:]]*=[[:space:]]*"\([^"]*\)".*/\1/p' "$file")
    [ -n "$WANTED" ] || [ "$file" = rust-toolchain.toml ] || read -r WANTED <"$file" || :
    case $WANTED in *[!A-Za-z0-9.-]*) WANTED='' ;; esac
    return 0
  done
}
