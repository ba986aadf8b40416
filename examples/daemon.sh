# shellcheck shell=bash
# Sourced by the examples: requests to the daemon at EMBERD_ADDR, and checks of its answers.
url=http://${EMBERD_ADDR:-127.0.0.1:7777}

ask() { # CURL-ARGUMENT...
  curl --silent --show-error --fail-with-body --noproxy '*' "$@"
}

get() { # PATH
  ask "$url$1"
}

post() { # PATH DATA
  ask --header 'content-type: application/json' --data-binary "$2" "$url$1"
}

expect() { # ANSWER PART...: every part must be in the answer
  local answer=$1 part
  shift
  for part; do
    [[ $answer == *"$part"* ]] || { echo "no $part in: $answer" >&2; exit 1; }
  done
}

field() { # NAME: a text or a number of the JSON on standard input
  sed -n "s|.*\"$1\": *\"\{0,1\}\([^\",}]*\).*|\1|p"
}

# Creates a sandbox, which is deleted when the script exits, and sets `id` to its id.
create() { # PACK [FIELDS]: fields of JSON beside the pack
  id=$(post /sandboxes "{\"language_pack\": \"$1\"${2:+, $2}}" | field id)
  trap 'ask --request DELETE "$url/sandboxes/$id"' EXIT
}
