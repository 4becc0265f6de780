# Login shells (an SSH session, bash -l) get Debian's PATH from /etc/profile: put the container's own back.
if [ -n "${ENVBUILD_PATH:-}" ]; then
    PATH=$ENVBUILD_PATH
else
    case ":$PATH:" in
    *:/opt/venv/bin:*) ;;
    *) PATH=/opt/venv/bin:$PATH ;;
    esac
fi
export PATH
