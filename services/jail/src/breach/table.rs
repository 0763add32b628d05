//! The attacks. One row each: name, what it is after, requirements, the hostile program's arguments, how success shows,
//! and the layers that each stop it alone. `tests/breach/` proves every row: all of it, each layer alone, each layer
//! missing. An empty list means that the defence has no switch; the attack is shown to work without a cell.
//!
//! `{at}` is where the cell's root is, the other names are what [`Plant`](super::Plant) knows.

use super::Attack;
use super::Proof::{Done, Flood, Heirloom, Leak, Survivor, Terminal};
use crate::layers::Layer::{
    Capabilities, Descriptors, Environment, Hidden, Ipc, Landlock, Limits, Mdwe, MountFlags,
    Network, NoNewPrivs, Pid, ReadOnly, Root, Seccomp, Spawn, User, UserNamespace, Watch,
};

macro_rules! attacks {
    ($($name:ident: $tries:literal, [$($id:literal),*], $args:literal, $proof:ident, [$($layer:ident),*];)*) => {
        &[$(Attack {
            name: stringify!($name),
            tries: $tries,
            requirements: &[$($id),*],
            args: $args,
            proof: $proof,
            stopped_by: &[$($layer),*],
        }),*]
    };
}

/// All of them, by what they are after.
pub const ATTACKS: &[Attack] = attacks! {
    // Files of the host and of other jobs.
    host_file: "read a file that everybody on the host may read", ["BRK-01"],
        "open /etc/passwd", Done, [Root, Landlock];
    host_shadow: "open the host's password hashes", ["BRK-01"],
        "open /etc/shadow", Done, [Root, Landlock, User];
    installation_login: "open the installation's own login", ["BRK-01", "BRK-03"],
        "open {creds}", Done, [Root, Landlock];
    worker_secret: "read a secret in the worker's folder", ["BRK-03"],
        "read {secret}", Leak, [Root, Landlock];
    other_input: "read another job's input", ["BRK-01", "BRK-08"],
        "read {other_in}", Leak, [Root, Landlock];
    other_output: "read another job's output", ["BRK-01"],
        "read {other_out}", Leak, [Root, Landlock];
    other_output_write: "open another job's output for writing", ["BRK-02"],
        "write {other_out}", Done, [Root, Landlock];
    worker_folder_list: "list the worker's folder", ["BRK-08"],
        "list {folder}", Done, [Root, Landlock, Seccomp];
    device: "open a device", ["BRK-01"],
        "open /dev/zero", Done, [Root, Landlock];
    system_tree: "read the kernel's system tree", ["BRK-01"],
        "list /sys/kernel", Done, [Root, Landlock, Seccomp];
    file_by_handle: "open another job's input by handle, past every path", ["BRK-01"],
        "open_handle {at}/out {handle}", Leak, [Seccomp, Capabilities, UserNamespace];
    file_events: "hear of what happens to another job's input", ["BRK-01"],
        "watch {other_in}", Done, [Seccomp, Root];

    // Secrets of processes.
    supervisor_environment: "find the supervisor's environment in its own", ["BRK-03", "BRK-08"],
        "surplus", Done, [Environment, Spawn];
    leaked_descriptor: "read a descriptor that the supervisor forgot to close", ["BRK-03"],
        "descriptor_content", Leak, [Descriptors];
    supervisor_files: "open the environment of the supervisor's process", ["BRK-03"],
        "open /proc/{supervisor}/environ", Done, [Root, Landlock, Capabilities, UserNamespace];
    own_process_files: "open its own process files", ["BRK-03"],
        "open /proc/self/environ", Done, [Root, Landlock];
    other_environment: "read the environment of another job's process", ["BRK-03"],
        "read /proc/{victim}/environ", Leak, [Root, Landlock, UserNamespace];
    other_arguments: "read the arguments of another job's process", ["BRK-03"],
        "read /proc/{victim}/cmdline", Leak, [Root, Landlock];
    other_descriptors: "open a descriptor of another job's process by its path", ["BRK-03"],
        "read /proc/{victim}/fd/{descriptor}", Leak, [Root, Landlock, UserNamespace];
    other_memory_file: "open the memory of another job's process", ["BRK-03"],
        "write /proc/{victim}/mem", Done, [Root, Landlock, UserNamespace];
    other_root: "read the host through the root of another process", ["BRK-38"],
        "read /proc/{victim}/root{secret}", Leak, [Root, Landlock, UserNamespace];
    other_memory: "read the memory of another job's process", ["BRK-03"],
        "memory {victim} {address}", Leak, [Seccomp, Pid, Landlock, UserNamespace];
    other_memory_write: "write into the memory of another job's process", ["BRK-02"],
        "memory_write {victim} {writable}", Done, [Seccomp, Pid, Landlock, UserNamespace];
    other_traced: "trace another job's process", ["BRK-03"],
        "ptrace {victim}", Done, [Seccomp, Pid, Landlock, UserNamespace];
    init_traced: "trace process 1 of its own cell", ["BRK-03", "BRK-35"],
        "ptrace_init", Done, [Seccomp, Hidden];
    descriptor_stolen: "take a descriptor out of another job's process", ["BRK-03"],
        "steal {victim} {descriptor}", Leak, [Seccomp, Pid, Landlock, UserNamespace];
    shared_memory: "attach another job's shared memory", ["BRK-03"],
        "shared_memory {shared}", Leak, [Seccomp, Ipc];
    message_queue: "read another job's message queue", ["BRK-03"],
        "queue {queue}", Leak, [Seccomp, Landlock, Ipc];
    user_keyring: "open the keys that all processes of a user share", ["BRK-03", "BRK-35"],
        "keyctl", Done, [Seccomp];
    key_added: "leave a key for a later job", ["BRK-04"],
        "add_key", Done, [Seccomp];

    // The way out.
    connect_broker: "connect to the broker", ["BRK-05", "BRK-27", "BRK-30"],
        "tcp {broker}", Done, [Seccomp, Network, Landlock];
    connect_store: "connect to the object store", ["BRK-05", "BRK-26", "BRK-30"],
        "tcp {store}", Done, [Seccomp, Network, Landlock];
    connect_api: "connect to the API", ["BRK-05", "BRK-30"],
        "tcp {api}", Done, [Seccomp, Network, Landlock];
    connect_peer: "connect to another worker", ["BRK-05", "BRK-28"],
        "tcp {peer}", Done, [Seccomp, Network, Landlock];
    connect_metadata: "connect to the cloud's metadata service", ["BRK-29"],
        "tcp 169.254.169.254:80", Done, [Seccomp, Network, Landlock];
    connect_metadata_6: "connect to the cloud's metadata service over IPv6", ["BRK-29"],
        "tcp [fd00:ec2::254]:80", Done, [Seccomp, Network, Landlock];
    datagram: "send a datagram, as a lookup of a name does", ["BRK-05", "BRK-31"],
        "udp {names}", Done, [Seccomp, Network];
    packet: "send a frame past all protocols", ["BRK-31"],
        "packet", Done, [Seccomp, Network, Capabilities, UserNamespace];
    raw_packet: "send a packet of its own making", ["BRK-31"],
        "icmp", Done, [Seccomp, Network, Capabilities, UserNamespace];
    interfaces: "see the host's network interfaces", ["BRK-31"],
        "links", Done, [Seccomp, Network];
    audit_messages: "write to the kernel's audit", ["BRK-35"],
        "audit", Done, [Seccomp];
    virtual_machine: "make a socket to the machine below", ["BRK-30"],
        "vsock", Done, [Seccomp];
    kernel_crypto: "make a socket to the kernel's cryptography", ["BRK-35"],
        "kernel_crypto", Done, [Seccomp];
    unix_path: "connect to a local service by path", ["BRK-30"],
        "unix {socket}", Leak, [Seccomp, Root];
    unix_abstract: "connect to a local service by abstract name", ["BRK-30"],
        "abstract {abstract}", Leak, [Seccomp, Network, Landlock];
    unix_pair: "make a pair of sockets", ["BRK-35"],
        "pair", Done, [Seccomp];

    // More rights.
    user_namespace: "make a user namespace", ["BRK-35"],
        "unshare_user", Done, [Seccomp];
    mount_namespace: "make a mount namespace", ["BRK-35"],
        "unshare_mount", Done, [Seccomp, Capabilities];
    network_namespace: "make a network namespace", ["BRK-35"],
        "unshare_network", Done, [Seccomp, Capabilities];
    process_namespace: "make a process namespace", ["BRK-35"],
        "unshare_pid", Done, [Seccomp, Capabilities];
    join_network: "enter the network of another process", ["BRK-35", "BRK-38"],
        "join {victim}", Done, [Seccomp, Pid, Landlock, Capabilities, UserNamespace];
    mount: "mount a file system", ["BRK-35"],
        "mount {at}/tmp", Done, [Seccomp, Landlock, Capabilities];
    mount_new: "mount a file system by the newer calls", ["BRK-35"],
        "mount_new {at}/tmp", Done, [Seccomp, Landlock, Capabilities];
    mount_processes: "mount a view of all processes", ["BRK-35", "BRK-38"],
        "mount_proc {at}/tmp", Done, [Seccomp, Landlock, Capabilities, UserNamespace];
    remount: "take the flags off a mount", ["BRK-32", "BRK-38"],
        "remount {at}/tmp", Done, [Seccomp, Landlock, Capabilities];
    unmount: "unmount what hides a folder", ["BRK-38"],
        "unmount {at}/tmp", Done, [Seccomp, Landlock, Capabilities];
    clone_tree: "take a copy of the file tree", ["BRK-38"],
        "clone_tree", Done, [Seccomp, Capabilities];
    pivot: "change the root of the mount namespace", ["BRK-38"],
        "pivot {at}/tmp", Done, [Seccomp, Landlock, Capabilities];
    chroot: "change its own root", ["BRK-38"],
        "chroot {at}/tmp", Done, [Seccomp, Capabilities];
    set_user: "become root", ["BRK-37"],
        "setuid", Done, [Seccomp, Capabilities, UserNamespace];
    set_group: "join root's group", ["BRK-37"],
        "setgid", Done, [Seccomp, Capabilities, UserNamespace];
    set_groups: "join more groups", ["BRK-37"],
        "setgroups", Done, [Seccomp, Capabilities, UserNamespace];
    capabilities: "take capabilities", ["BRK-36"],
        "capset", Done, [Seccomp, Capabilities];
    ambient_capability: "pass a capability on", ["BRK-36"],
        "ambient", Done, [Seccomp, Capabilities];
    set_user_id_program: "run a program that makes whoever starts it root", ["BRK-37"],
        "exec {set_user_id}", Done, [Seccomp, Landlock, Root, NoNewPrivs, UserNamespace];
    set_user_id_output: "leave a program with the set-user-id bit in the output", ["BRK-04"],
        "chmod {at}/out/x", Done, [Seccomp];
    set_user_id_new: "make an output that has the set-user-id bit from its birth on", ["BRK-04"],
        "create_set_user_id {at}/out/x", Done, [Seccomp];
    change_owner: "give an output to another user", ["BRK-37"],
        "chown {at}/out/x", Done, [Seccomp, Capabilities, UserNamespace];
    bpf: "load a program into the kernel", ["BRK-35"],
        "bpf", Done, [Seccomp, Capabilities, UserNamespace];
    perf: "measure what a whole processor does", ["BRK-35"],
        "perf", Done, [Seccomp, Capabilities, UserNamespace];
    io_uring: "make calls that no filter sees", ["BRK-35"],
        "io_uring", Done, [Seccomp, Limits];
    userfaultfd: "hold up the kernel in the middle of a copy", ["BRK-35"],
        "userfaultfd", Done, [Seccomp];
    inotify: "watch files", ["BRK-35"],
        "watch_init", Done, [Seccomp];
    fanotify: "hold up what other processes open", ["BRK-35"],
        "fanotify", Done, [Seccomp, Capabilities, UserNamespace];
    splice: "move pages into a pipe without a copy", ["BRK-35"],
        "splice", Done, [Seccomp];
    kexec: "load another kernel", ["BRK-35"],
        "kexec", Done, [Seccomp, Capabilities, UserNamespace];
    module: "load a kernel module", ["BRK-35"],
        "module", Done, [Seccomp, Capabilities, UserNamespace];
    module_remove: "remove a kernel module", ["BRK-35"],
        "module_remove", Done, [Seccomp, Capabilities, UserNamespace];
    reboot: "reboot", ["BRK-35"],
        "reboot", Done, [Seccomp, Capabilities];
    swap: "add swap space", ["BRK-35"],
        "swap", Done, [Seccomp, Capabilities, UserNamespace];
    accounting: "write the accounting of all processes to a file", ["BRK-35"],
        "accounting", Done, [Seccomp, Capabilities, UserNamespace];
    clock: "set the clock", ["BRK-35"],
        "clock", Done, [Seccomp, Capabilities, UserNamespace];
    host_name: "set the name of its machine", ["BRK-35"],
        "host_name", Done, [Seccomp, Capabilities];
    io_ports: "speak to hardware ports", ["BRK-35"],
        "ports", Done, [Seccomp, Capabilities, UserNamespace];
    kernel_log: "read the kernel's log", ["BRK-35"],
        "kernel_log", Done, [Seccomp, Capabilities, UserNamespace];
    local_descriptors: "install a 16-bit segment", ["BRK-35"],
        "ldt", Done, [Seccomp];
    x32: "call by the numbers of another word size", ["BRK-35"],
        "x32", Done, [Seccomp];
    i386: "call by the 32-bit door", ["BRK-35"],
        "i386", Done, [Seccomp];
    personality: "change how the kernel lays out memory", ["BRK-35"],
        "personality", Done, [Seccomp];
    dumpable: "make itself readable for other processes", ["BRK-35"],
        "dumpable", Done, [Seccomp];
    terminal: "type into the terminal of whoever started the worker", ["BRK-38"],
        "terminal", Terminal, [];
    release_agent: "name a program for the host to start (control groups)", ["BRK-38"],
        "write {release_agent}", Done, [Root, Landlock, User];
    core_pattern: "name a program for the host to start (core files)", ["BRK-38"],
        "write /proc/sys/kernel/core_pattern", Done, [Root, Landlock, User];
    sysrq: "press the keys that halt the machine", ["BRK-38"],
        "write /proc/sysrq-trigger", Done, [Root, Landlock, User];

    // Staying.
    write_root: "write at the root", ["BRK-04", "BRK-32"],
        "create {at}/x", Done, [ReadOnly, Landlock, User];
    write_etc: "write to /etc", ["BRK-04", "BRK-32"],
        "create {at}/etc/x", Done, [ReadOnly, Landlock, User];
    write_usr: "write to /usr", ["BRK-04", "BRK-32"],
        "create {at}/usr/x", Done, [ReadOnly, Landlock, User];
    write_bin: "add a program", ["BRK-04", "BRK-32"],
        "create {at}/bin/x", Done, [ReadOnly, Landlock, User];
    write_input_folder: "add an input", ["BRK-04", "BRK-32"],
        "create {at}/in/x", Done, [ReadOnly, Landlock, User];
    write_input: "change its input, which is evidence", ["BRK-02", "BRK-32"],
        "write {at}/in/0", Done, [ReadOnly, Landlock];
    write_worker: "leave a file in the worker's folder", ["BRK-04"],
        "create {folder}/left", Done, [Root, Landlock];
    left_in_tmp: "leave a file in /tmp for the next job", ["BRK-04"],
        "create {at}/tmp/left then read {at}/tmp/left", Heirloom, [];
    left_process: "leave a process behind", ["BRK-04"],
        "daemon", Survivor, [Seccomp, Pid];

    // New code.
    writable_code: "run code in writable memory", ["BRK-35"],
        "wx_map", Done, [Mdwe];
    gained_code: "make written memory executable", ["BRK-35"],
        "gain_exec", Done, [Mdwe];
    gained_code_key: "make written memory executable by a protection key", ["BRK-35"],
        "gain_exec_key", Done, [Seccomp, Mdwe];
    implied_code: "make all readable memory executable", ["BRK-35"],
        "implied_exec", Done, [Seccomp, Mdwe];
    mapped_code: "map a file that it wrote as code", ["BRK-35"],
        "file_exec {at}/tmp/code", Done, [MountFlags];
    mapped_code_output: "map an output that it wrote as code", ["BRK-35"],
        "file_exec {at}/out/code", Done, [MountFlags];
    shared_code: "map a file twice, to write and to run", ["BRK-35"],
        "shared_exec {at}/tmp/code", Done, [MountFlags];
    nameless_code: "map a file without a name as code", ["BRK-35"],
        "memfd_exec", Done, [Seccomp];
    overwritten_code: "write over its own code by its process files", ["BRK-35"],
        "proc_mem", Done, [Root, Landlock];
    host_program: "start a program of the host", ["BRK-35"],
        "exec /usr/bin/true", Done, [Seccomp, Landlock, Root];
    dropped_program: "start a program that it wrote to /tmp", ["BRK-35"],
        "exec_dropped {at}/tmp/x", Done, [Seccomp, Landlock, MountFlags];
    dropped_program_output: "start a program that it wrote to the output", ["BRK-35"],
        "exec_dropped {at}/out/x", Done, [Seccomp, Landlock, MountFlags];
    input_program: "start its input as a program", ["BRK-35"],
        "exec {at}/in/0", Done, [Seccomp, Landlock, MountFlags];
    nameless_program: "start a program that is in memory only", ["BRK-35"],
        "exec_memfd", Done, [Seccomp];
    same_program: "start its own program again", ["BRK-35"],
        "exec {at}/bin/hotcell-hostile", Done, [Seccomp];
    launchers_exec: "use the launcher's one exec again", ["BRK-35"],
        "exec_again {at}/bin/hotcell-hostile", Done, [Seccomp];

    // Traps in the output.
    output_link: "leave a symbolic link to a host's file", ["BRK-01"],
        "symlink {at}/out/x", Done, [Seccomp, Landlock];
    output_hard_link: "leave a file with two names", ["BRK-01"],
        "hardlink {at}/out/x", Done, [Seccomp];
    output_fifo: "leave a fifo, for a reader to hang", ["BRK-01"],
        "fifo {at}/out/x", Done, [Seccomp, Landlock];
    output_device: "leave a device", ["BRK-01"],
        "device {at}/out/x", Done, [Seccomp, Landlock, Capabilities, UserNamespace];
    output_folder: "leave a folder", ["BRK-01"],
        "mkdir {at}/out/x", Done, [Seccomp, Landlock];
    output_socket: "leave a socket", ["BRK-01"],
        "socket_file {at}/out/x", Done, [Seccomp, Landlock];
    output_attribute: "leave an extended attribute", ["BRK-04"],
        "attribute {at}/out/x", Done, [Seccomp];
    output_nameless: "fill the disk by a file that never had a name", ["BRK-33"],
        "nameless {at}/out", Done, [Seccomp];
    output_replaced: "fill the disk by a file that lost its name", ["BRK-33"],
        "replace {at}/out", Done, [Landlock];
    output_removed: "remove an output", ["BRK-33"],
        "remove {at}/out/x", Done, [Landlock];
    output_sparse: "leave a file of a terabyte of nothing", ["BRK-33"],
        "sparse {at}/out/x 1099511627776", Done, [Limits, Watch];
    tmp_link: "go through a symbolic link of its own", ["BRK-01"],
        "follow {at}/tmp/follow", Done, [Seccomp, Landlock, MountFlags];

    // More than its share.
    processes: "start processes without end", ["BRK-34"],
        "forks 64", Done, [Seccomp, Limits];
    threads: "start threads without end", ["BRK-34"],
        "threads 64", Done, [Limits];
    memory: "take memory without end", ["BRK-33"],
        "allocate 300000000", Done, [Limits];
    one_file: "write a file without end", ["BRK-33"],
        "fill {at}/out/x:8000000", Done, [Limits, Watch];
    all_files: "write many files without end", ["BRK-33"],
        "litter_for {at}/out 100", Done, [Watch];
    file_count: "make files without end", ["BRK-33"],
        "many {at}/out 100", Done, [Watch];
    tmp_bytes: "fill /tmp", ["BRK-33"],
        "fill {at}/tmp/x:2000000", Done, [Limits];
    tmp_files: "make files in /tmp without end", ["BRK-33"],
        "many {at}/tmp 1000", Done, [Limits];
    descriptors: "open files without end", ["BRK-33"],
        "open_many {at}/in/0 200", Done, [Limits];
    locked_memory: "take memory that the host cannot have back", ["BRK-33"],
        "lock", Done, [Seccomp, Limits];
    processor: "take processor time without end", ["BRK-34"],
        "busy 1100 3300", Done, [Limits, Watch];
    wall_clock: "never end", ["BRK-34"],
        "idle 4000", Done, [Watch];
    core_file: "hand its memory to the host as a core", ["BRK-01"],
        "core_limit", Done, [Limits];
    standard_output: "print without end", ["BRK-33"],
        "talk stdout 4000000", Flood, [];
    standard_error: "complain without end", ["BRK-33"],
        "talk stderr 4000000", Flood, [];

    // Other processes.
    fork: "start a process", ["BRK-35"],
        "fork", Done, [Seccomp];
    signal_other: "signal another job's process", ["BRK-02"],
        "kill {victim}", Done, [Seccomp, Pid, Landlock];
    signal_thread: "signal another job's process as a thread", ["BRK-02"],
        "tgkill {victim}", Done, [Seccomp, Pid, Landlock];
    signal_by_descriptor: "signal another job's process by a descriptor", ["BRK-02"],
        "pidfd {victim}", Done, [Seccomp, Pid, Landlock];
    signal_all: "signal every process", ["BRK-02"],
        "kill -1", Done, [Seccomp, Pid];
    see_processes: "see other processes", ["BRK-08"],
        "processes", Done, [Root, Landlock, Seccomp];
    real_time: "run before everything else", ["BRK-34"],
        "real_time", Done, [Seccomp, Capabilities, UserNamespace];
    priority: "raise its priority", ["BRK-34"],
        "nice", Done, [Seccomp, Capabilities, UserNamespace];
    processor_choice: "choose its processor", ["BRK-34"],
        "pin", Done, [Seccomp];
};
