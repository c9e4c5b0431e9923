# SPDX-License-Identifier: Apache-2.0
# fish completion for guise

# The value at hand, and what was given of it up to and with the last comma.
function __guise_keys
    set -l value (string replace -r '^--[a-z-]+=' '' -- (commandline -ct))
    set -l given (string replace -r '[^,]*$' '' -- $value)
    string join \n -- $given$argv
end

function __guise_disk
    set -l value (string replace -r '^--[a-z-]+=' '' -- (commandline -ct))
    if string match -q '*,*' -- $value
        __guise_keys readonly format=raw serial= cache={writeback,writethrough,none,unsafe} discard={on,off} io={auto,uring,threads}
    else
        __fish_complete_path $value
    end
end

function __guise_net
    if string match -q '*,*' -- (commandline -ct)
        __guise_keys hostfwd={tcp,udp}: mac= mtu=
    else
        string join \n -- user user,hostfwd=tcp: none help tap=(path basename /sys/class/net/* 2>/dev/null)
    end
end

function __guise_balloon
    if string match -q '*,*' -- (commandline -ct)
        __guise_keys target= stats=
    else
        string join \n -- on off target= stats= help
    end
end

function __guise_console
    set -l value (string replace -r '^--[a-z-]+=' '' -- (commandline -ct))
    if string match -q 'file=*' -- $value
        string replace -r '^' 'file=' -- (__fish_complete_path (string replace file= '' -- $value))
    else
        string join \n -- stdio file= null help
    end
end

function __guise_gdb
    set -l value (string replace -r '^--[a-z-]+=' '' -- (commandline -ct))
    if string match -q 'unix:*' -- $value
        string replace -r '^' 'unix:' -- (__fish_complete_path (string replace unix: '' -- $value))
    else
        string join \n -- tcp: unix:
    end
end

function __guise_trace
    set -l value (string replace -r '^--[a-z-]+=' '' -- (commandline -ct))
    set -l categories exits interrupts faults mmio pio msr blocks
    if string match -q '*:*' -- $value
        set -l what (string replace -r ':.*' ':' -- $value)
        string join \n -- $what(__fish_complete_path (string replace -r '^[^:]*:' '' -- $value))
    else if string match -q '*,*' -- $value
        __guise_keys $categories
    else
        string join \n -- $categories all help
    end
end

set -l run '__fish_seen_subcommand_from run'
complete -c guise -f
complete -c guise -n __fish_use_subcommand -a run -d 'Run a guest on this terminal'
complete -c guise -n __fish_use_subcommand -a doctor -d 'Show what this host offers'
complete -c guise -n __fish_use_subcommand -a help -d 'Show help'
complete -c guise -n __fish_use_subcommand -l version -d 'Print the version'
complete -c guise -l help -d 'Show help'
complete -c guise -n '__fish_seen_subcommand_from help; and test (count (commandline -opc)) -eq 2' -a 'run doctor help'
complete -c guise -n '__fish_seen_subcommand_from doctor' -a --cpu -d 'Features of a CPU model'
complete -c guise -n '__fish_seen_subcommand_from doctor' -l cpu -x -a 'host max x86-64-v2 x86-64-v3' -d 'Features of a CPU model'
complete -c guise -n $run -l kernel -r -F -d Kernel
complete -c guise -n $run -l initrd -r -F -d Initramfs
complete -c guise -n $run -l append -x -d 'Kernel command line'
complete -c guise -n $run -l disk -x -a '(__guise_disk)' -d 'Add a disk'
complete -c guise -n $run -l net -x -a '(__guise_net)' -d 'Add a network card'
complete -c guise -n $run -l balloon -x -a '(__guise_balloon)' -d 'Give unused memory back to the host'
complete -c guise -n $run -l memory -x -a '512M 1G 2G 4G' -d 'Guest memory'
complete -c guise -n $run -l cpus -x -a '1 2 4 8' -d 'Virtual CPUs'
complete -c guise -n $run -l cpu -x -a 'host max x86-64-v2 x86-64-v3 help' -d 'CPU model'
complete -c guise -n $run -l engine -x -a 'auto bt kvm help' -d 'What runs guest code'
complete -c guise -n $run -l name -x -d 'Name of the guest'
complete -c guise -n $run -l console -x -a '(__guise_console)' -d 'Where the console goes'
complete -c guise -n $run -l no-reboot -d 'End when the guest resets'
complete -c guise -n $run -l timeout -x -d 'End after this many seconds'
complete -c guise -n $run -l exit-port -x -a '0xf4 help' -d 'Port that ends the machine'
complete -c guise -n $run -l gdb -x -a '(__guise_gdb)' -d 'Let GDB connect'
complete -c guise -n $run -l paused -d 'With --gdb: wait for the debugger'
complete -c guise -n $run -l trace -x -a '(__guise_trace)' -d 'Record what the guest does'
complete -c guise -n $run -l stats -d 'Print counters at the end'
