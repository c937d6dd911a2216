#!/bin/sh
# Boots Debian 12's own kernel, with control groups of version 2, in an emulator, and tries the limits of instances there: what
# is written, what the kernel kills, what is said of it, and that no group is left. For machines that have version 1, as many CI
# runners. By hand: it needs qemu-system-x86, busybox-static and cpio (apt), fetches a kernel of 26 MB, and takes some 20 s beside that.
#
#   scripts/debian-kernel.sh [target/debug/trundle]
set -eu
trundle=$(realpath "${1:-target/debug/trundle}")
for needed in qemu-system-x86_64 busybox cpio apt-get dpkg-deb strip; do
    command -v "$needed" > /dev/null || { echo "install $needed first"; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p')
apt-get download -q "$kernel" > apt.log 2>&1 || { cat apt.log; exit 2; }
dpkg-deb -x "$kernel"_*.deb kernel

mkdir -p root/bin root/lib64 root/proc root/sys root/dev root/tmp root/var root/run root/etc root/root root/app
cp "$(command -v busybox)" root/bin/busybox
for name in sh mount ls cat echo sleep ip grep wc cut poweroff; do ln -s busybox "root/bin/$name"; done
strip -o root/bin/trundle "$trundle"
ldd root/bin/trundle | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "root/$(dirname "$library")"
    cp "$library" "root/$library"
done
echo 'root:x:0:0:root:/root:/bin/sh' > root/etc/passwd
echo 'root:x:0:' > root/etc/group
cat > root/app/trundle.toml << 'END'
name = "web"
version = "1"
replicas = 2
[run]
command = ["/bin/trundle", "sample"]
[run.limits]
memory = "96MiB"
cpu = 0.5
[run.env]
START_MS = "0"
[listen]
http = "127.0.0.1:8080"
[health.ready]
http = "/ready"
END
cat > root/init << 'END'
#!/bin/sh
export PATH=/bin HOME=/root TRUNDLE_STATE_DIR=/var/state
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for folder in tmp var run; do mount -t tmpfs tmpfs /$folder; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
cd /app
try() { echo "== $*"; "$@" > /tmp/said 2>&1; code=$?; cat /tmp/said; echo "== exit $code"; }
echo "== kernel $(cut -d' ' -f3 /proc/version), controllers $(cat /sys/fs/cgroup/cgroup.controllers)"
try trundle deploy
for group in /sys/fs/cgroup/trundle/*/; do
    echo "== group memory.max $(cat $group/memory.max), cpu.max $(cat $group/cpu.max), processes $(wc -l < $group/cgroup.procs)"
done
try trundle deploy --set version=2 --set run.env.FAIL=eat
try trundle rollback
try trundle down web
sleep 1
echo "== groups left $(ls /sys/fs/cgroup/trundle | grep -c trundle-)"
poweroff -f
END
chmod +x root/init
(cd root && find . | cpio -o -H newc 2> /dev/null | gzip -1) > initrd.gz
timeout 600 qemu-system-x86_64 -accel tcg -cpu max -m 1024 -nographic -no-reboot -kernel kernel/boot/vmlinuz-* \
    -initrd initrd.gz -append "console=ttyS0 quiet panic=-1" < /dev/null > said.txt 2>&1 || true
tr -d '\r' < said.txt | grep -a -A100000 '== kernel' || { cat said.txt; exit 1; }

failed=0
while read -r wanted; do
    tr -d '\r' < said.txt | grep -aq -- "$wanted" || { echo "MISSING: $wanted"; failed=1; }
done << 'END'
group memory.max 100663296, cpu.max 50000 100000, processes 1
Memory cgroup out of memory: Killed process
paused: .*out of memory
== exit 10
groups left 0
END
[ "$failed" = 0 ] && echo "all as it should be"
exit "$failed"
