"""Shell completion of verbs and options."""

from __future__ import annotations

from lightning_omni.cli_help import VERBS, verb_options
from lightning_omni.errors import OmniError

_SHELLS = ("bash", "zsh")


def completion_script(shell: str) -> str:
    """Return a script that completes verbs and options; values are completed as file names.

    Raises:
        OmniError: If the shell is not one of bash and zsh.
    """
    if shell not in _SHELLS:
        raise OmniError(f"--print_completion is '{shell}', wanted one of {', '.join(_SHELLS)}")
    branches = "\n".join(
        f'    {verb}) words="{" ".join(f"--{o.name}" for o in verb_options(verb))} --help" ;;'
        for verb in VERBS
    )
    start = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{start}_lightning_omni() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words
  case "${{COMP_WORDS[1]}}" in
{branches}
    *) words="" ;;
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(VERBS)}" -- "$current"))
  elif [[ "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _lightning_omni lightning_omni
"""
