# SPDX-License-Identifier: Apache-2.0
# bash completion for guise

_guise() {
	local cur prev words cword
	if declare -F _init_completion >/dev/null; then
		_init_completion -n = || return
	else
		cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
	fi

	if [ "$cword" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W 'run doctor help --help --version' -- "$cur")
		return
	fi
	case ${words[1]} in
	help)
		mapfile -t COMPREPLY < <(compgen -W 'run doctor help' -- "$cur")
		return
		;;
	run) ;;
	*) return ;;
	esac

	case $prev in
	--kernel | --initrd)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		;;
	--disk)
		if [[ $cur == *,* ]]; then
			mapfile -t COMPREPLY < <(compgen -P "${cur%,*}," -W 'readonly format=raw serial= cache=writeback cache=writethrough cache=unsafe discard=on discard=off io=auto io=uring io=threads' -- "${cur##*,}")
		else
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		fi
		compopt -o nospace 2>/dev/null
		;;
	--net)
		mapfile -t COMPREPLY < <(compgen -W 'user user,hostfwd=tcp: tap= none help' -- "$cur")
		compopt -o nospace 2>/dev/null
		;;
	--engine) mapfile -t COMPREPLY < <(compgen -W 'auto bt kvm' -- "$cur") ;;
	--console) mapfile -t COMPREPLY < <(compgen -W 'stdio file= null' -- "$cur") ;;
	--memory) mapfile -t COMPREPLY < <(compgen -W '512M 1G 2G 4G' -- "$cur") ;;
	--cpus) mapfile -t COMPREPLY < <(compgen -W '1 2 4 8' -- "$cur") ;;
	--append | --name | --timeout | --exit-port) ;;
	*)
		mapfile -t COMPREPLY < <(compgen -W '--kernel --initrd --append --disk --net --memory --cpus --engine --name --console --no-reboot --timeout --exit-port --stats --help' -- "$cur")
		;;
	esac
}
complete -F _guise guise
