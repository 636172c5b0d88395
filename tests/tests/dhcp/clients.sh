# The guest's half of main.rs: each DHCP client in turn on a new interface, as it comes from Debian.
#
#   @@ CLIENT address4|address6 ADDRESS/PREFIX       global ones
#   @@ CLIENT route4|route6 ROUTE                    as iproute2 says it
#   @@ CLIENT mtu MTU
#   @@ CLIENT host NAME                              the kernel's
#   @@ CLIENT KEY VALUE                              what else the client says of its lease

# ready: whether $client has everything that is waited for; each client has its own.
wait_until_ready() {
    local tries=600
    until ready; do
        tries=$((tries - 1))
        if [ $tries = 0 ]; then echo "@@ $client late"; return; fi
        sleep 0.2
    done
}

# The client's own root directory: the disk's, with what it writes in memory.
root_for() { # CLIENT
    client=$1 root=/roots/$1
    mkdir -p "$root" "/layers/$1/upper" "/layers/$1/work"
    mount -t overlay -o "lowerdir=/clients,upperdir=/layers/$1/upper,workdir=/layers/$1/work" root "$root"
    mount -t proc proc "$root/proc"
    # Read-only, as in containers: there is no udev to be waited for.
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -o bind /dev "$root/dev"
    mount -t tmpfs run "$root/run"
    hostname localhost
}

# An interface that nobody has touched, with less than the MTU it is to get.
new_interface() {
    rmmod virtio_net
    modprobe virtio_net
    until [ -e /sys/class/net/eth0 ]; do sleep 0.05; done
    ip link set eth0 mtu 1300
}

# A program by its whole name, else it is busybox's. Daemons are started without, so that $! is theirs.
inside() { chroot "$root" "$@"; }

has() { # FAMILY: an address, and a default route
    ip -o "$1" address show dev eth0 scope global | grep -v tentative | grep -q . &&
        [ "$(inside /bin/ip "$1" route show default dev eth0)" ]
}

has_both() { has -4 && has -6; }

tell() { # KEY: each line of the input
    sed "s/^/@@ $client $1 /"
}

tell_all() {
    for family in 4 6; do
        inside /bin/ip -o -$family address show dev eth0 scope global | sed 's/.* inet6\{0,1\} \([^ ]*\).*/\1/' | tell address$family
        inside /bin/ip -$family route show dev eth0 | tell route$family
    done
    tell mtu </sys/class/net/eth0/mtu
    hostname | tell host
}

networkd() {
    root_for networkd
    cat >"$root/etc/systemd/network/eth0.network" <<'END'
[Match]
Name=eth0
[Network]
DHCP=yes
IPv6AcceptRA=yes
[DHCPv4]
UseMTU=yes
UseDomains=yes
[DHCPv6]
UseDomains=yes
[IPv6AcceptRA]
UseDomains=yes
END
    # As systemd would make them.
    mkdir -p "$root"/run/systemd/netif/links "$root"/run/systemd/netif/leases
    inside /bin/chown -R systemd-network: /run/systemd/netif
    link=$root/run/systemd/netif/links/$(cat /sys/class/net/eth0/ifindex)
    chroot "$root" /lib/systemd/systemd-networkd >/tmp/networkd.log 2>&1 &
    ready() { has_both && grep -q ^DNS=.*: "$link"; }
    wait_until_ready
    tell_all
    tell lease <"$root/run/systemd/netif/leases/${link##*/}"
    tell link <"$link"
    kill $!
    wait $!
}

manager() {
    root_for manager
    printf '[main]\nauth-polkit=false\n' >"$root/etc/NetworkManager/NetworkManager.conf"
    mkdir -p "$root/run/dbus"
    chroot "$root" /usr/bin/dbus-daemon --system --nofork >/tmp/dbus.log 2>&1 &
    bus=$!
    until [ -S "$root/run/dbus/system_bus_socket" ]; do sleep 0.05; done
    chroot "$root" /usr/sbin/NetworkManager --debug --log-level=INFO >/tmp/manager.log 2>&1 &
    ready() {
        has_both && inside /usr/bin/nmcli -t -f GENERAL.STATE,IP6.DNS device show eth0 >/tmp/state 2>&1 &&
            grep -q '^GENERAL.STATE:100' /tmp/state && grep -q ^IP6.DNS /tmp/state
    }
    wait_until_ready
    tell_all
    inside /usr/bin/nmcli -t -e no -f IP4,IP6,DHCP4,DHCP6 device show eth0 | sed 's/:/ /' | tell lease
    tell resolv <"$root/etc/resolv.conf"
    kill -9 $! $bus
    wait
}

# dhclient replaces what resolv.conf has from one family by what it has from the other.
ifupdown() {
    root_for ifupdown
    printf 'iface eth0 inet dhcp\niface eth0 inet6 dhcp\n' >"$root/etc/network/interfaces"
    cat >"$root/etc/dhcp/dhclient-exit-hooks.d/keep" <<'END'
[ ! -e /etc/resolv.conf ] || cp /etc/resolv.conf /run/resolv.conf.$reason
END
    inside /sbin/ifup -v eth0 >/tmp/ifupdown.log 2>&1
    ready() { has_both && [ -s "$root/run/resolv.conf.BOUND6" ]; }
    wait_until_ready
    tell_all
    tell resolv4 <"$root/run/resolv.conf.BOUND"
    tell resolv6 <"$root/run/resolv.conf.BOUND6"
    sed 's/^ *//; s/;$//' "$root/var/lib/dhcp/dhclient.eth0.leases" | tell lease
    inside /sbin/ifdown eth0 >>/tmp/ifupdown.log 2>&1
}

udhcpc() {
    root_for udhcpc
    cat >"$root/etc/udhcpc/told.script" <<'END'
#!/bin/sh
[ "$1" != bound ] || set >/run/told
exec /etc/udhcpc/default.script "$@"
END
    chmod 755 "$root/etc/udhcpc/told.script"
    inside /bin/busybox udhcpc -f -q -n -t 20 -T 2 -i eth0 -s /etc/udhcpc/told.script \
        -O search -O staticroutes -O mtu -O hostname >/tmp/udhcpc.log 2>&1
    echo "@@ udhcpc status $?"
    tell_all
    sed -n "s/^\([a-z0-9]*\)='\(.*\)'$/\1 \2/p" "$root/run/told" | tell lease
    tell resolv <"$root/etc/resolv.conf"
}

modprobe -a overlay
mkdir -p /clients /layers /roots
mount -t ext4 -o ro "$(disk clients)" /clients || exit 1
mount -t tmpfs -o size=64m layers /layers
for each in CLIENTS; do
    new_interface
    $each
    cat "/tmp/$each.log"
    read -r up _ </proc/uptime
    echo "@@ $each done at $up"
done
