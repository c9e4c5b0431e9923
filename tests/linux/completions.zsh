# SPDX-License-Identifier: Apache-2.0
#
# Prints what zsh offers for a line: zsh -f completions.zsh DIRECTORY-OF-_guise LINE
# An interactive zsh in a pseudo-terminal of its own is given the line and a tab; its compadd tells what it is given.
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1= PS2=; fpath=(${(q)1} \$fpath); autoload -Uz compinit; compinit -u -D
compadd() {
	local -a hits
	if (( ! \${@[(I)-[OAD]*]} )); then
		builtin compadd -A hits \"\$@\"
		(( \$#hits )) && print -rl -- '[hit]'\${^hits}
	fi
	builtin compadd \"\$@\"
}
last() { print '[end]'; exit }
comppostfuncs=(last)
unsetopt list_ambiguous
bindkey '^I' complete-word
print '[rea''dy]'"
while zpty -r z l; do
	[[ $l == *'[ready]'* ]] && break
done
zpty -w -n z "$2"$'\t'
while zpty -r z l; do
	[[ $l == *'[hit]'* ]] && print -r -- ${${l##*'[hit]'}%%$'\r'*}
	[[ $l == *'[end]'* ]] && break
done
