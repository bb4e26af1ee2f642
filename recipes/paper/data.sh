#!/usr/bin/env bash
# Data of the paper's three stages in one folder, data/paper, which recipes/paper/stage*.yaml read.
# Source: Omni-Diffusion, arXiv:2603.06577, table 4; the table is in docs/recipes/full_scale.md.
# Run: CORPORA=/data/corpora bash recipes/paper/data.sh     with the downloads in CORPORA
# The lines are independent of each other and may run at the same time, also on several machines that
# share data/paper. Where the paper took a part of a corpus, the number of files below is that part.
set -euo pipefail
: "${CORPORA:?set it to the folder of the downloads}"

prepare() { lightning_omni prep-data --out data/paper --split train --corpus "$@"; }

# text: 670,000 dialogues
prepare parquet_dialogues --source "$CORPORA/tulu-3-sft-mixture/data"
# captions: 10 M pictures of LAION-2B, 10,000 a tar; text to image: 4 M of JourneyDB
prepare img2dataset --tasks caption --source "$CORPORA/laion-2b/{00000..00999}.tar"
prepare journeydb --tasks t2i --source "$CORPORA/journeydb/data/train"
# visual questions: LLaVA-OneVision, one folder per subset
prepare llava_onevision --source "$CORPORA/llava-onevision"
# recognition: 100, 100, 1,000, 100 and 54 hours
prepare librispeech --tasks asr --source "$CORPORA/LibriSpeech/train-clean-100"
prepare common_voice --tasks asr --source "$CORPORA/cv-corpus-17.0/en-100h"
prepare parquet_speech --tasks asr --source "$CORPORA/gigaspeech/m"
prepare parquet_speech --tasks asr --source "$CORPORA/peoples_speech/100h"
prepare parquet_speech --tasks asr --source "$CORPORA/voxpopuli/en-54h"
# synthesis: 58, 50 and 5,000 hours
prepare libritts --tasks tts --source "$CORPORA/LibriTTS/train-clean-100"
prepare parquet_speech --tasks tts --source "$CORPORA/globe/50h"
prepare speech_tars --tasks tts --source "$CORPORA/emilia/EN-5000h"
# spoken questions: 250,000 exchanges of VoiceAssistant-400K
prepare spoken_dialogues --source "$CORPORA/voiceassistant-400k/250k"
