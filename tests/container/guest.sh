# What the guest of container/pod does, after tests/guest/init: a server with a disk of its own, which it
# leaves clean when its power button is pressed.
#
#   @@ boots N              how often the disk has booted
#   @@ ended clean|never    how that ended the last time
#   @@ serves               SSH answers

mkdir -p /disk /drive /root/.ssh
mount -t ext4 /dev/vda1 /disk || exit 3
for d in /dev/vd?; do
    mount -t iso9660 -o ro $d /drive 2>/dev/null && [ -e /drive/openstack/latest/meta_data.json ] && break
done
cd /drive/openstack/latest || exit 4
field() { sed -n 's/.*"'$1'": *"\([^"]*\)".*/\1/p' meta_data.json; }
echo "@@ instance $(field uuid)"
hostname "$(field hostname)"
sed -n 's/.*\(ssh-ed25519 [A-Za-z0-9+/=]*\).*/\1/p' user_data >/root/.ssh/authorized_keys
chmod -R go= /root
cd /

n=$(cat /disk/boots 2>/dev/null)
echo "@@ boots $((n + 1))"
echo "@@ ended $(cat /disk/ended 2>/dev/null || echo never)"
rm -f /disk/ended
echo $((n + 1)) >/disk/boots
sync

for n in /sys/class/net/*; do n=${n##*/}; [ $n = lo ] || nic=$n; done
echo "@@ mac $(cat /sys/class/net/$nic/address)"
echo "@@ boot $(cat /proc/sys/kernel/random/boot_id)"
cat >/tmp/configure <<'SCRIPT'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add $ip/$mask dev $interface
# A router that is on no network is told by these (RFC 3442), which then are all there are.
set -- ${staticroutes:-0.0.0.0/0 $router}
while [ "$1" ]; do
    if [ $2 = 0.0.0.0 ]; then ip route add $1 dev $interface; else ip route add $1 via $2; fi
    shift 2
done
SCRIPT
chmod 755 /tmp/configure
ip link set $nic up
udhcpc -i $nic -s /tmp/configure -q -n -t 20 -T 3 -O staticroutes || exit 5

ln -s /disk/lib64 /lib64
ln -s /disk/dropbear /etc/dropbear
echo /bin/sh >/etc/shells
LD_LIBRARY_PATH=/disk/lib /disk/bin/dropbear -R -s -E -p 22 2>/tmp/served || exit 6

node=
for e in /sys/class/input/event*; do
    [ "$(cat $e/device/name)" = "Power Button" ] && node=/dev/input/${e##*/}
done
exec 3<$node
echo "@@ serves"
dd bs=24 count=1 <&3 >/dev/null 2>&1
echo "@@ pressed"
killall dropbear
echo clean >/disk/ended
n=0
until umount /disk; do
    n=$((n + 1))
    [ $n -gt 50 ] && exit 7
    sleep 0.1
done
echo "@@ clean"
