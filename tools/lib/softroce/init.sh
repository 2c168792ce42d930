#!/bin/sh
# The first process of a guest, in busybox's shell: brings up rxe0, runs /script with its console on
# the second serial port, and says how it ended in a last line with the token that the host gave.
# Whatever goes wrong before leaves without that line, and the host takes it for a failure.
#
# From the kernel's command line: softroce.token, softroce.address, softroce.network (veth: a pair
# inside this guest; nic: the network card that other guests are joined to).
#
# shellcheck disable=SC3045 # busybox's ulimit has -l and -c
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/busybox HOME=/root TERM=dumb
export IP=/usr/bin/ip # busybox's shell prefers its own, which lacks what is needed
console=/dev/ttyS1
gid_polls=200

given() { sed -n "s/.*softroce\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

leave() {
    stty -F $console raw # waits until all of the output is out
    reboot -f
}

fail() {
    echo "the guest did not come up: $*" >$console
    leave
}

mount_all() {
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev
    mkdir -p /dev/shm /dev/pts
    mount -t tmpfs shm /dev/shm
    mount -t devpts pts /dev/pts
    ln -s /proc/self/fd /dev/fd
}

load_modules() {
    while read -r module; do
        insmod "/modules/$module" || fail "insmod $module"
    done </modules/order
}

# The device that rxe is to sit on: $device, with its address.
network() {
    "$IP" link set lo up
    case $(given network) in
        veth)
            device=veth0
            "$IP" link add veth0 type veth peer name veth1 || fail "no veth"
            "$IP" link set veth1 up
            ;;
        nic)
            device=eth0
            [ -e /sys/class/net/eth0 ] || fail "no network card"
            ;;
        *) fail "no such network: $(given network)" ;;
    esac
    "$IP" address add "$REMORA_TEST_VERBS/24" dev "$device"
    "$IP" link set "$device" up
}

# GID 1 is the one of RoCE v2 over IPv4. It comes some time after the address.
soft_roce() {
    rdma link add rxe0 type rxe netdev "$device" || fail "rdma link add"
    port=/sys/class/infiniband/rxe0/ports/1
    polls=0
    until grep -q ":ffff:" $port/gids/1 2>/dev/null; do
        polls=$((polls + 1))
        [ $polls -le $gid_polls ] || fail "rxe0 got no GID"
        sleep 0.05
    done
}

mount_all
exec 3<>$console # held open, so that its settings stay
stty -F $console raw -echo clocal
REMORA_TEST_VERBS=$(given address)
export REMORA_TEST_VERBS
load_modules
network
soft_roce
ulimit -l unlimited
ulimit -c 0
echo "@@up $(cut -d' ' -f1 /proc/uptime)" >$console

sh /script <&3 >&3 2>&3 3>&-
echo "@@result $(given token) $?" >$console
leave
