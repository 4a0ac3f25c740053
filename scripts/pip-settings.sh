# For scripts that install with uv: gives it pip's settings. They set `python` to an interpreter with
# pip, and `uv_options` to an array of options.

# pip_setting OPTION: prints what pip's settings give an option of `pip install`.
pip_setting() {
    local section value values
    for section in :env: install global; do
        value=$(sed -n "s/^$section\.$1='\(.*\)'\$/\1/p" <<<"$pip_settings")
        if [[ -n "$value" ]]; then
            # Several values are separated by blanks or line breaks, which pip shows as \n.
            read -r -a values <<<"${value//\\n/ }"
            echo "${values[*]}"
            return
        fi
    done
}

# Gives uv the user's settings of pip, except where uv has its own. They travel in the environment:
# as arguments, a password in an address would be visible to every user of the machine.
follow_pip() {
    local pip_settings links
    pip_settings=$("$python" -m pip config list)
    links=$(pip_setting find-links)
    : "${UV_DEFAULT_INDEX=$(pip_setting index-url)}"
    : "${UV_EXTRA_INDEX_URL=$(pip_setting extra-index-url)}"
    : "${UV_FIND_LINKS=${links// /,}}"
    : "${UV_INSECURE_HOST=$(pip_setting trusted-host)}"
    : "${SSL_CERT_FILE=$(pip_setting cert)}"
    : "${ALL_PROXY=$(pip_setting proxy)}"
    # As pip: the best version of all indexes, not of the first index that has the package.
    : "${UV_INDEX_STRATEGY=unsafe-best-match}"
    export UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_INSECURE_HOST
    export SSL_CERT_FILE ALL_PROXY UV_INDEX_STRATEGY
    case "$(pip_setting no-index)" in
        1 | [Tt]rue | [Yy]es | [Oo]n) uv_options+=(--no-index) ;;
    esac
}
