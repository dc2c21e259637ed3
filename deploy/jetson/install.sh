#!/usr/bin/env bash
# Sets SGMSNet up on a Jetson with JetPack 6 or 7: an environment that sees JetPack's TensorRT, without torch.
#
#   deploy/jetson/install.sh [--dry-run] [--service]
#
#   --dry-run   print the commands and run none
#   --service   start the page with the machine, too (systemd; asks for sudo)
#
# PYTHON is the interpreter (python3), VENV the environment (.venv). It was tried with fakes only, on no Jetson.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
venv=${VENV:-.venv}
release_file=${TEGRA_RELEASE:-/etc/nv_tegra_release}
unit_folder=${UNIT_FOLDER:-/etc/systemd/system}
dry=false
service=false
for option in "$@"; do
  case "$option" in
    --dry-run) dry=true ;;
    --service) service=true ;;
    *)
      echo "usage: deploy/jetson/install.sh [--dry-run] [--service]" >&2
      exit 2
      ;;
  esac
done

fail() {
  echo "$1" >&2
  exit 1
}

run() {
  echo "+ $*"
  if ! $dry; then "$@"; fi
}

[ -r "$release_file" ] || fail "This is no Jetson: there is no $release_file. Elsewhere, see README, \"Use it\"."
release=$(sed -n '1s/^# R\([0-9]*\).*/\1/p' "$release_file")
case "$release" in
  36) cuda_python="cuda-python>=12.9.1,<13" ;; # JetPack 6; before 12.9.1 no other thread runs while the GPU is waited for
  38 | 39) cuda_python="cuda-python>=13,<14" ;; # JetPack 7
  35) fail "JetPack 5 has Python 3.8 and TensorRT 8.5, and SGMSNet needs 3.10 and 8.6: install JetPack 6." ;;
  *) fail "Linux for Tegra R${release:-?} is not known to this script, only R36 (JetPack 6), R38 and R39 (JetPack 7)." ;;
esac

if ! $dry && ! "$python" -c "import ensurepip" 2>/dev/null; then
  fail "Python cannot make an environment: sudo apt-get install python3-venv, then again."
fi
# TensorRT comes with JetPack as a system package; an environment without system packages does not see it.
run "$python" -m venv --system-site-packages "$venv"
run "$venv/bin/python" -m pip install --quiet --requirement deploy/jetson/requirements.txt "$cuda_python"
if ! $dry && ! "$venv/bin/python" -c "import tensorrt" 2>/dev/null; then
  fail "Python does not find JetPack's TensorRT: sudo apt-get install nvidia-jetpack (or python3-libnvinfer), then again."
fi
if $service; then
  unit=$(mktemp)
  trap 'rm -f "$unit"' EXIT
  sed -e "s|@ROOT@|$PWD|g" -e "s|@VENV@|$(realpath -ms "$venv")|g" \
    -e "s|@USER@|${SUDO_USER:-$(id -un)}|g" deploy/jetson/sgmsnet.service >"$unit"
  run sudo install -m 644 "$unit" "$unit_folder/sgmsnet.service"
  run sudo systemctl daemon-reload
  run sudo systemctl enable --now sgmsnet
fi
echo "Next: make jetson-engine ${VENV:+VENV=\"$VENV\" }ARGS=\"--graph cxr-fp16.onnx\""
echo "(docs/jetson.md says where that file comes from)"
if $service; then echo "Then: sudo systemctl restart sgmsnet, so that the page looks for engines again"; fi
