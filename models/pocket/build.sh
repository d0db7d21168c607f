#!/bin/sh
# Builds the model from the converted sets:  build.sh DATA OUT [MINUTES]
# Needs: pip install 'pliant[elastify]'
set -eu

data=$1
out=$2
minutes=${3:-75}
here=$(cd "$(dirname "$0")" && pwd)

python "$here/build_data.py" --data "$data" --out "$out/dataset"
python "$here/train.py" --dataset "$out/dataset" --out "$out" --minutes "$minutes"
python "$here/evaluate.py" --hf "$out/hf-latest" --data "$data" --ratios 1.0 0.75 0.5 0.25
python "$here/export_requests.py" --out "$out/requests" --data "$data"
pliant elastify "$out/hf-latest" --out "$out/pocket" \
    --calibration "$out/requests/calibration.jsonl" \
    --recovery-data "$out/requests/recovery.jsonl" --recovery-rate 4e-4
