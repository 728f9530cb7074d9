#!/bin/sh
# Prepares .env.docker for docker-compose.yml on Linux and macOS. On Windows: deploy/setup-docker.ps1.
#
#   deploy/setup-docker.sh                    makes .env.docker of .env.docker.example, or keeps yours
#   deploy/setup-docker.sh --subscription     and lets the proxy use your Claude Code login (terms: docs/limits.md)
#
#   --env-file FILE       instead of .env.docker beside docker-compose.yml, or of PROXY_ENV_FILE
#   --credentials FILE    Claude Code's credentials file, where it is not found by itself
#
# What is there is never lost: a file that would change is copied to FILE.backup.TIME first, and the rest of it stays.
#
# The limit of a mounted file: Docker mounts the very file that is there when the container starts. The proxy writes into
# it in place. Claude Code may put a new file in its place, and the containers keep the old one until they are started
# again (docker compose restart cc-proxy). A token that needs no file has no such limit: `claude setup-token` makes one,
# for CLAUDE_CODE_OAUTH_TOKEN.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
env_file=${PROXY_ENV_FILE:-$here/.env.docker}
credentials=${CLAUDE_CREDENTIALS_FILE:-}
subscription=no

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --subscription) subscription=yes ;;
    --env-file) env_file=${2:?--env-file needs a file} && shift ;;
    --credentials) credentials=${2:?--credentials needs a file} && shift ;;
    -h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0" && exit 0 ;;
    *) fail "$1 is no option; --help shows all" ;;
  esac
  shift
done

# Where Claude Code keeps its login: a file on Linux, the Keychain on macOS.
find_credentials() {
  file=${CLAUDE_CONFIG_DIR:-$HOME/.claude}/.credentials.json
  if [ -f "$file" ]; then
    printf '%s\n' "$file"
  elif [ "$(uname -s)" = Darwin ]; then
    export_keychain "${CLAUDE_CONFIG_DIR:-$HOME/.claude}/claude-credentials.json"
  fi
}

# Writes the login of the Keychain to a file, without its refresh token: that works once, and who spends it elsewhere
# logs Claude Code out. So the file is good until the token in it expires, some hours; then run this again.
export_keychain() {
  login=$(security find-generic-password -s 'Claude Code-credentials' -w 2>/dev/null) || return 0
  case $login in
    *'"accessToken"'*) ;;
    *) fail "the Keychain's entry 'Claude Code-credentials' is no login; log in with Claude Code first" ;;
  esac
  mkdir -p "$(dirname "$1")"
  printf '%s\n' "$login" | sed 's/"refreshToken" *: *"[^"]*"/"refreshToken":""/' | put "$1"
  printf '%s\n' "$1"
}

# Writes standard input to a file that only its owner can read: all of it, or nothing.
put() {
  (umask 077 && cat >"$1.new.$$")
  mv "$1.new.$$" "$1"
}

# A copy that overwrites no earlier one.
back_up() {
  copy=$1.backup.$(date +%Y%m%d-%H%M%S)
  while [ -e "$copy" ]; do copy=$copy.again; done
  cp -p "$1" "$copy"
  echo "Kept as it was: $copy"
}

# A value as env files take it: in quotes where it has more than plain characters.
quoted() {
  case $1 in
    *\'*) fail "$1: a path with a quote in it can't be written into an env file" ;;
    *[!A-Za-z0-9_./:@-]*) printf "'%s'" "$1" ;;
    *) printf %s "$1" ;;
  esac
}

# Sets a variable in the text on standard input: in its place, commented out or not, else at the end.
set_variable() {
  line=$1=$(quoted "$2") || exit 1
  name=$1 line=$line awk '
    BEGIN { name = ENVIRON["name"]; line = ENVIRON["line"] }
    !done && index($0, name "=") == 1 || !done && index($0, "#" name "=") == 1 { print line; done = 1; next }
    index($0, name "=") == 1 { next }
    { print }
    END { if (!done) print line }'
}

source_file=$env_file
[ -f "$env_file" ] || source_file=$here/.env.docker.example
text=$(cat "$source_file")

if [ "$subscription" = yes ]; then
  [ -n "$credentials" ] || credentials=$(find_credentials)
  [ -n "$credentials" ] || fail "no Claude Code login found; log in with \`claude\`, or name the file with --credentials"
  [ -f "$credentials" ] || fail "$credentials: no such file"
  credentials=$(CDPATH='' cd -- "$(dirname -- "$credentials")" && pwd)/$(basename -- "$credentials")
  # The file is its owner's alone, so that the containers run as its owner.
  # shellcheck disable=SC2012 # its numbers are the same everywhere; those of stat are not
  owner=$(ls -ln "$credentials" | awk '{ print $3 ":" $4 }')
  text=$(printf '%s\n' "$text" | set_variable CLAUDE_SUBSCRIPTION_ENABLED true)
  text=$(printf '%s\n' "$text" | set_variable CLAUDE_CREDENTIALS_FILE "$credentials")
  text=$(printf '%s\n' "$text" | set_variable CCPROXY_UID "${owner%:*}")
  text=$(printf '%s\n' "$text" | set_variable CCPROXY_GID "${owner#*:}")
  echo "The proxy will use the login in $credentials"
fi

if [ -f "$env_file" ] && [ "$text" = "$(cat "$env_file")" ]; then
  echo "Nothing to change in $env_file"
else
  [ ! -f "$env_file" ] || back_up "$env_file"
  printf '%s\n' "$text" | put "$env_file"
  echo "Written: $env_file"
fi

cat <<END

Put your keys into it, then:

  cd $(quoted "$here")
  docker compose --env-file $(quoted "$env_file") up -d
  docker compose logs cc-migrate      # shows the client key, once, with the line that uses it
END
