#!/usr/bin/env bash
# Data of one GPU's day in one folder, data/one_gpu, which all of recipes/one_gpu/*.yaml read.
# Source: the corpora below, as published; the page is docs/one_gpu_one_day.md.
# Run: CORPORA=/data/corpora bash recipes/one_gpu/data.sh     with the downloads in CORPORA
# All but the last line are independent of each other and may run at the same time. A line that is repeated
# is refused, as its split is there already: remove the lines that are done.
set -euo pipefail
: "${CORPORA:?set it to the folder of the downloads}"

prepare() { lightning_omni prep-data --out data/one_gpu --corpus "$@"; }

# LLaVA-OneVision and Tulu are published as one split: their last files are held out
parquet_files() {
  mapfile -t files < <(find -L "$CORPORA/$1" -name '*.parquet' | LC_ALL=C sort)
  ((${#files[@]} > 2)) || { echo "error: want 3 or more Parquet files in '$CORPORA/$1'" >&2; exit 2; }
}

# pictures and captions: tars of img2dataset, 10,000 a tar
prepare img2dataset --split train --source "$CORPORA/captions/{00000..00039}.tar"
prepare img2dataset --split val --source "$CORPORA/captions/00040.tar"
prepare img2dataset --split test_iid --source "$CORPORA/captions/00041.tar"
# recognition: LibriSpeech, 100 hours; synthesis: LibriTTS, 54 and 191 hours. Its smaller part is of the
# recordings of LibriSpeech's, so it is not used for recognition again
prepare librispeech --split train --tasks asr --source "$CORPORA/LibriSpeech/train-clean-100"
prepare librispeech --split val --tasks asr --source "$CORPORA/LibriSpeech/dev-clean"
prepare librispeech --split test_iid --tasks asr --source "$CORPORA/LibriSpeech/test-clean"
prepare libritts --split train --tasks tts --source "$CORPORA/LibriTTS/train-clean-100" "$CORPORA/LibriTTS/train-clean-360"
prepare libritts --split val --tasks tts --source "$CORPORA/LibriTTS/dev-clean"
prepare libritts --split test_iid --tasks tts --source "$CORPORA/LibriTTS/test-clean"
# questions about pictures: one folder per subset
parquet_files llava-onevision
prepare llava_onevision --split train --tasks vqa --source "${files[@]:0:${#files[@]}-2}"
prepare llava_onevision --split val --tasks vqa --source "${files[-2]}"
prepare llava_onevision --split test_iid --tasks vqa --source "${files[-1]}"
# written dialogues, against forgetting
parquet_files tulu-3-sft-mixture
prepare parquet_dialogues --split train --source "${files[@]:0:${#files[@]}-2}"
prepare parquet_dialogues --split val --source "${files[-2]}"
prepare parquet_dialogues --split test_iid --source "${files[-1]}"
# the questions and captions above, spoken: 30,000 of each
lightning_omni prep-data --speak data/one_gpu --out data/one_gpu --max-samples 30000 --processes 16
