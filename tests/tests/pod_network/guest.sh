# What the guest of tests/pod_network.rs does; the host puts assignments before it:
#
#   net=pod|direct|nat  v4=1|  v6=1|  clients, selves: addresses  address6: its own, with prefix
#   key: who may log in  page: length of what it has to show
#
# It configures itself, serves until the host says so, and then speaks itself.

tools || exit 3
modprobe sctp || exit 4
for n in /sys/class/net/*; do n=${n##*/}; [ $n = lo ] || nic=$n; done
# Tests do not wait for duplicates to answer.
echo 0 >/proc/sys/net/ipv6/conf/$nic/accept_dad
ip link set $nic up

cat >/tmp/configure <<'SCRIPT'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add $ip/$mask dev $interface
[ "$mtu" ] && ip link set $interface mtu $mtu
if [ "$staticroutes" ]; then
    set -- $staticroutes
    while [ "$1" ]; do
        if [ $2 = 0.0.0.0 ]; then ip route add $1 dev $interface; else ip route add $1 via $2; fi
        shift 2
    done
else
    ip route add default via $router
fi
for d in $dns; do echo "nameserver $d"; done >/etc/resolv.conf
echo "search ${search:-$domain}" >>/etc/resolv.conf
SCRIPT
chmod 755 /tmp/configure
if [ "$v4" ]; then
    udhcpc -i $nic -s /tmp/configure -q -n -t 20 -T 3 -O staticroutes -O search -O mtu || exit 5
fi
if [ "$v6" ]; then
    ip address add $address6 dev $nic
    n=0
    until ip -6 route | grep -q ^default; do
        n=$((n + 1))
        [ $n -gt 600 ] && { ip -6 route; exit 6; }
        sleep 0.1
    done
fi
echo "@@ mtu $(cat /sys/class/net/$nic/mtu)"

# ---------------------------------------------------------------- what it serves

mkdir -p /root/.ssh /etc/dropbear /www/cgi-bin
chmod 700 /root /root/.ssh
echo "$key" >/root/.ssh/authorized_keys
echo /bin/sh >/etc/shells
dropbear -R -s -E -p 22 2>>/tmp/served
cat >/www/cgi-bin/peer <<'SCRIPT'
#!/bin/sh
echo "Content-Type: text/plain"
echo
echo "$REMOTE_ADDR"
SCRIPT
chmod 755 /www/cgi-bin/peer
head -c $page /dev/zero >/www/page
for p in 80 40000; do httpd -p $p -h /www; done

serve() { socat "$1,fork" "$2" >>/tmp/served 2>&1 & }
serve TCP6-LISTEN:5900,ipv6only=0,reuseaddr,backlog=128 'SYSTEM:echo $SOCAT_PEERADDR'
# Not PIPE: whoever fills a pipe and empties it can wait for itself.
serve TCP6-LISTEN:7,ipv6only=0,reuseaddr,backlog=128 EXEC:cat,nofork
serve UDP6-RECVFROM:7,ipv6only=0 PIPE
serve UDP6-RECVFROM:80,ipv6only=0 'SYSTEM:echo $SOCAT_PEERADDR'
[ "$v4" ] && serve SCTP4-LISTEN:7,reuseaddr PIPE
[ "$v6" ] && serve SCTP6-LISTEN:8,reuseaddr PIPE
n=0
for what in tcp.*:22 tcp.*:80 tcp.*:40000 tcp.*:5900 tcp.*:7 udp.*:7 udp.*:80; do
    until netstat -ltun | grep -q "^$what "; do
        n=$((n + 1))
        [ $n -gt 600 ] && { echo "no $what"; cat /tmp/served; exit 7; }
        sleep 0.1
    done
done
echo "@@ ready $nic"
read go </dev/ttyS0

# ---------------------------------------------------------------- what it says

# Where the other end sees it come from.
tcp() { socat -T 60 -u "TCP:$1" - 2>&1; }
udp() {
    # socat always waits that long, answered or not.
    for i in $(seq 20); do
        said=$(echo "?" | socat -t 1 - "UDP:$1" 2>&1)
        [ "$said" ] && break
    done
    echo "$said"
}
bracket() { case $1 in *:*) echo "[$1]" ;; *) echo "$1" ;; esac; }
for a in $clients; do
    ping -c 2 -W 30 $a >/tmp/said && echo "@@ pings $a"
    ping -c 2 -W 30 -s 4000 $a >/tmp/said && echo "@@ pings big $a"
    a=$(bracket $a)
    echo "@@ tcp $(tcp $a:9000)"
    echo "@@ udp $(udp $a:9000)"
    # Nobody is there: an ICMP error comes back to it.
    echo "@@ closed $(udp $a:9001)"
done
[ $net = nat ] && selves=
for a in $selves; do
    a=$(bracket $a)
    # (busybox's wget, linked statically, cannot look a host up.)
    said=$(printf 'GET /cgi-bin/peer HTTP/1.0\r\n\r\n' | socat -t 60 -T 60 - "TCP:$a:80" | tail -n 1)
    echo "@@ self tcp $said"
    echo "@@ self udp $(udp $a:80)"
    [ "$(echo twice | socat -T 60 -t 60 - TCP:$a:7)" = twice ] && echo "@@ self echo $a"
done
[ "$v4" ] && [ $net != nat ] && echo "@@ named $(tcp backend:9000)"
echo "@@ errors $(cat /sys/class/net/$nic/statistics/rx_errors) $(cat /sys/class/net/$nic/statistics/tx_errors)"
true
