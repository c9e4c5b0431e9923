# SPDX-License-Identifier: Apache-2.0
# bash completion for guise
# shellcheck shell=bash

# Sets COMPREPLY to those of the given words that start with $1; each gets $2 in front. Without a blank after what goes on.
_guise_words() {
	mapfile -t COMPREPLY < <(compgen -P "$2" -W "${*:3}" -- "$1")
	if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=:] ]]; then compopt -o nospace 2>/dev/null; fi
}

_guise_files() {
	compopt -o filenames 2>/dev/null
	mapfile -t COMPREPLY < <(compgen -P "$2" -f -- "$1")
}

# The value $2 of the option $1; $3 goes in front of every answer.
_guise_value() {
	local keys=${2%,*},
	case $1 in
	--kernel | --initrd) _guise_files "$2" "$3" ;;
	--disk)
		if [[ $2 == *,* ]]; then
			_guise_words "${2##*,}" "$3$keys" readonly format=raw serial= cache={writeback,writethrough,none,unsafe} discard={on,off} \
				io={auto,uring,threads}
		else
			_guise_files "$2" "$3"
			compopt -o nospace 2>/dev/null
		fi
		;;
	--net)
		if [[ $2 == *,* ]]; then
			_guise_words "${2##*,}" "$3$keys" hostfwd={tcp,udp}: mac= mtu=
		else
			_guise_words "$2" "$3" user user,hostfwd=tcp: tap= none help
		fi
		;;
	--balloon)
		if [[ $2 == *,* ]]; then
			_guise_words "${2##*,}" "$3$keys" target= stats=
		else
			_guise_words "$2" "$3" on off target= stats= help
		fi
		;;
	--cpu) _guise_words "$2" "$3" host max x86-64-v2 x86-64-v3 help ;;
	--engine) _guise_words "$2" "$3" auto bt kvm help ;;
	--console)
		if [[ $2 == file=* ]]; then
			_guise_files "${2#file=}" "$3file="
		else
			_guise_words "$2" "$3" stdio file= null help
		fi
		;;
	--gdb)
		if [[ $2 == unix:* ]]; then
			_guise_files "${2#unix:}" "$3unix:"
		else
			_guise_words "$2" "$3" tcp: unix:
		fi
		;;
	--trace)
		if [[ $2 == *:* ]]; then
			_guise_files "${2#*:}" "$3${2%%:*}:"
		elif [[ $2 == *,* ]]; then
			_guise_words "${2##*,}" "$3$keys" exits interrupts faults mmio pio msr blocks
		else
			_guise_words "$2" "$3" exits interrupts faults mmio pio msr blocks all help
		fi
		;;
	--memory) _guise_words "$2" "$3" 512M 1G 2G 4G ;;
	--cpus) _guise_words "$2" "$3" 1 2 4 8 ;;
	--exit-port) _guise_words "$2" "$3" 0xf4 help ;;
	esac
}

_guise() {
	# The line is split anew: bash splits words at = and :, too.
	local line=${COMP_LINE:0:COMP_POINT} words cur prev
	local options="--kernel --initrd --append --disk --net --balloon --memory --cpus --cpu --engine --name --console --no-reboot --timeout --exit-port --gdb --paused --trace --stats --help"

	read -ra words <<<"$line"
	[[ $line != *[[:space:]] ]] || words+=("")
	cur=${words[-1]} prev=${words[-2]}
	COMPREPLY=()

	if [ ${#words[@]} -eq 2 ]; then
		_guise_words "$cur" "" run doctor help --help --version
	elif [ "${words[1]}" = help ] && [ ${#words[@]} -eq 3 ]; then
		_guise_words "$cur" "" run doctor help
	elif [ "${words[1]}" = doctor ]; then
		if [[ $cur == --cpu=* ]]; then
			_guise_words "${cur#*=}" --cpu= host max x86-64-v2 x86-64-v3
		elif [ "$prev" = --cpu ]; then
			_guise_words "$cur" "" host max x86-64-v2 x86-64-v3
		else
			_guise_words "$cur" "" --cpu
		fi
	elif [ "${words[1]}" = run ]; then
		if [[ $cur == --*=* ]]; then
			_guise_value "${cur%%=*}" "${cur#*=}" "${cur%%=*}="
		elif [[ $prev == --* && $prev != --no-reboot && $prev != --paused && $prev != --stats && $prev != *=* ]]; then
			_guise_value "$prev" "$cur" ""
		else
			_guise_words "$cur" "" "$options"
		fi
	fi

	# What bash takes for other words is not repeated, and a word that is complete is no answer.
	local breaks=${COMP_WORDBREAKS//[^=:]/} other=
	[[ ! $breaks || $cur != *["$breaks"]* ]] || other=${cur%"${cur##*["$breaks"]}"}
	[[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != "$cur" ]] || COMPREPLY=()
	COMPREPLY=("${COMPREPLY[@]#"$other"}")
}
complete -F _guise guise
