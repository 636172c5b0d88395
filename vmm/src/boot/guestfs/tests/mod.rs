//! Whole disks, with real filesystems on them, from `choose`'s point of view.
//!
//! The filesystems are made by their own tools; a test whose tool is missing says so and ends.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use devices::block::BlockBackend;
mod images;
mod mutations;

use images::{btrfs, ext, fat, xfs};

use super::entries::uki;
use super::testdisk::{ESP, LINUX, MemoryDisk, Part, gpt, mbr};
use super::{BootPolicy, Choice, NothingFound, choose};

fn chosen(disk: Vec<u8>) -> Result<Choice, NothingFound> {
    let disk: Arc<dyn BlockBackend> = Arc::new(MemoryDisk::new(disk, 512));
    choose(&disk, &BootPolicy::default())
}

fn refused(disk: Vec<u8>) -> String {
    match chosen(disk) {
        Ok(choice) => panic!("took {}", choice.reason),
        Err(refusal) => refusal.0,
    }
}

fn root_of(bytes: &[u8]) -> Vec<u8> {
    gpt(&[Part { number: 1, name: "", kind: LINUX, bytes }], 512)
}

/// Bytes that no run of zeroes or repetition can stand in for.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

const GRUB: &str = "set default=\"0\"\n\
    menuentry 'Debian GNU/Linux' --class debian {\n\
    search --no-floppy --fs-uuid --set=root 11112222-3333-4444-5555-666677778888\n\
    linux /boot/vmlinuz-6.1 root=UUID=1 ro console=ttyS0\n initrd /boot/initrd.img-6.1\n}\n";

#[test]
fn debian_on_every_ext_in_a_gpt() {
    let (kernel, initrd) = (noise(900_000, 1), noise(2_500_000, 2));
    for kind in ["ext2", "ext3", "ext4"] {
        let files: &[(&str, &[u8])] = &[
            ("/boot/grub/grub.cfg", GRUB.as_bytes()),
            ("/boot/vmlinuz-6.1", &kernel),
            ("/boot/real/initrd", &initrd),
            ("/boot/initrd.img-6.1", b"-> real/initrd"),
        ];
        let Some(image) = ext(kind, "root", &[], files) else { return };
        let choice = chosen(root_of(&image)).unwrap();
        assert!(choice.kernel == kernel && choice.initrds == [initrd.clone()], "{kind}");
        assert_eq!(choice.cmdline, "BOOT_IMAGE=/boot/vmlinuz-6.1 root=UUID=1 ro console=ttyS0");
        assert_eq!(
            choice.reason,
            format!(
                "partition 1 ({kind}, GPT): /boot/grub/grub.cfg, entry 0 'Debian GNU/Linux' \
                 (default=0): /boot/vmlinuz-6.1 + /boot/initrd.img-6.1"
            )
        );
    }
}

#[test]
fn no_partition_table_with_extlinux_on_a_4096_byte_disk() {
    let config = "DEFAULT menu.c32\nLABEL virt\n MENU DEFAULT\n LINUX vmlinuz-virt\n \
                  INITRD initramfs-virt\n APPEND root=LABEL=/ rootfstype=ext4\n";
    let files: &[(&str, &[u8])] = &[
        ("/boot/extlinux.conf", config.as_bytes()),
        ("/boot/vmlinuz-virt", b"kernel"),
        ("/boot/initramfs-virt", b"initrd"),
    ];
    let Some(mut image) = ext("ext4", "/", &[], files) else { return };
    // extlinux's boot sector, with code where a partition table would be.
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[446..510].fill(0x66);
    let disk: Arc<dyn BlockBackend> = Arc::new(MemoryDisk::new(image.clone(), 4096));
    let choice = choose(&disk, &BootPolicy::default()).unwrap();
    assert_eq!(choice.kernel, b"kernel");
    assert_eq!(choice.cmdline, "BOOT_IMAGE=vmlinuz-virt root=LABEL=/ rootfstype=ext4");
    assert!(choice.reason.starts_with("the whole disk (ext4, no partition table): /boot/extlinux"));
    // Code that looks like a table of one partition.
    image[446..510].fill(0);
    image[446..462].copy_from_slice(&super::testdisk::mbr_entry(0x83, 8, 8));
    assert_eq!(chosen(image).unwrap().kernel, b"kernel");
}

#[test]
fn cirros_in_an_mbr() {
    let menu = "default 0\ntimeout 0\ntitle Linux\nroot (hd0,0)\n\
                kernel /vmlinuz LABEL=cirros-rootfs ro console=tty1 console=ttyS0\n\
                initrd /boot/initrd.img\n";
    let files: &[(&str, &[u8])] = &[
        ("/boot/grub/menu.lst", menu.as_bytes()),
        ("/boot/vmlinuz-5.15", b"kernel"),
        ("/vmlinuz", b"-> boot/vmlinuz-5.15"),
        ("/boot/initrd.img", b"initrd"),
    ];
    let Some(image) = ext("ext3", "cirros-rootfs", &[], files) else { return };
    let choice = chosen(mbr(&[&image])).unwrap();
    assert_eq!((choice.kernel.as_slice(), choice.initrds.len()), (b"kernel".as_slice(), 1));
    assert_eq!(choice.cmdline, "LABEL=cirros-rootfs ro console=tty1 console=ttyS0");
    assert!(choice.reason.contains("(ext3, MBR): /boot/grub/menu.lst, entry 0 'Linux'"));
}

#[test]
fn ubuntu_with_a_separate_boot_partition() {
    let grub = "set default=0\nmenuentry Ubuntu {\nset root='hd0,gpt16'\n\
                search --no-floppy --label --set=root BOOT\n\
                linux /vmlinuz root=LABEL=cloudimg-rootfs ro\ninitrd /initrd.img\n}\n";
    let boot_files: &[(&str, &[u8])] = &[
        ("/grub/grub.cfg", grub.as_bytes()),
        ("/vmlinuz-6.8", b"kernel"),
        ("/vmlinuz", b"-> vmlinuz-6.8"),
        ("/initrd.img", b"initrd"),
    ];
    let Some(boot) = ext("ext4", "BOOT", &[], boot_files) else { return };
    let Some(root) = ext("ext4", "cloudimg-rootfs", &[], &[("/boot/efi/x", b"")]) else { return };
    let disk = gpt(
        &[
            Part { number: 16, name: "", kind: LINUX, bytes: &boot },
            Part { number: 1, name: "", kind: LINUX, bytes: &root },
        ],
        512,
    );
    let choice = chosen(disk).unwrap();
    assert_eq!(choice.kernel, b"kernel");
    assert_eq!(choice.cmdline, "BOOT_IMAGE=/vmlinuz root=LABEL=cloudimg-rootfs ro");
    assert!(choice.reason.starts_with("partition 16 (ext4, GPT): /grub/grub.cfg"));
}

const GRUB_BLS: &str = "load_env\nset default=\"${saved_entry}\"\n\
    search --no-floppy --fs-uuid --set=root 11112222-3333-4444-5555-666677778888\n\
    insmod blscfg\nblscfg\n";

fn grubenv(lines: &str) -> Vec<u8> {
    let mut block = format!("# GRUB Environment Block\n{lines}").into_bytes();
    block.resize(1024, b'#');
    block
}

#[test]
fn enterprise_linux_on_xfs() {
    let entry = "title AlmaLinux\nversion 5.14.0\nlinux /vmlinuz-5.14.0\n\
                 initrd /initramfs-5.14.0.img $tuned_initrd\noptions $kernelopts $tuned_params\n";
    let (kernel, initrd) = (noise(1_300_000, 3), noise(3_000_000, 4));
    let grubenv = grubenv("saved_entry=m-5.14.0-1.el9\nkernelopts=root=UUID=9 ro console=ttyS0\n");
    let files: &[(&str, &[u8])] = &[
        ("/grub2/grub.cfg", GRUB_BLS.as_bytes()),
        ("/grub2/grubenv", &grubenv),
        ("/loader/entries/m-5.14.0-1.el9.conf", entry.as_bytes()),
        ("/loader/entries/m-0-rescue.conf", b"linux /vmlinuz-0-rescue\n"),
        ("/vmlinuz-5.14.0", &kernel),
        ("/initramfs-5.14.0.img", &initrd),
        ("/boot", b"-> ."),
    ];
    let Some(boot) = xfs("boot", &[], files) else { return };
    let choice = chosen(root_of(&boot)).unwrap();
    assert!(choice.kernel == kernel && choice.initrds == [initrd]);
    assert_eq!(choice.cmdline, "BOOT_IMAGE=(hd0,gpt1)/vmlinuz-5.14.0 root=UUID=9 ro console=ttyS0");
    // Through the link that leads back: the first path that is looked for.
    assert!(choice.reason.contains("(xfs, GPT): /boot/grub2/grub.cfg"), "{}", choice.reason);
}

#[test]
fn loader_entries_without_a_grub_configuration() {
    let entry = "title Fedora\nlinux /boot/vmlinuz-6.11\noptions $kernelopts quiet\n";
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("/boot/loader/entries/m-6.11.0-1.conf", entry.into()),
        ("/boot/loader/entries/m-6.2.0-9.conf", entry.replace("6.11", "6.2").into()),
        ("/boot/vmlinuz-6.11", b"new".into()),
        ("/boot/vmlinuz-6.2", b"old".into()),
    ];
    let disk = |files: &[(&str, Vec<u8>)]| {
        let files: Vec<_> = files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
        ext("ext4", "x", &[], &files).map(|image| root_of(&image))
    };
    // Without GRUB's environment they are read as systemd-boot would.
    let Some(plain) = disk(&files) else { return };
    let choice = chosen(plain).unwrap();
    assert_eq!(
        (choice.kernel.as_slice(), choice.cmdline.as_str()),
        (&b"new"[..], "$kernelopts quiet")
    );
    let env = "saved_entry=m-6.2.0-9\nkernelopts=root=/dev/vda1 ro\n";
    files.push(("/boot/grub2/grubenv", grubenv(env)));
    let choice = chosen(disk(&files).unwrap()).unwrap();
    assert_eq!(choice.kernel, b"old");
    assert_eq!(choice.cmdline, "BOOT_IMAGE=(hd0,gpt1)/boot/vmlinuz-6.2 root=/dev/vda1 ro quiet");
}

#[test]
fn btrfs_from_the_default_subvolume_and_from_named_ones() {
    let (kernel, initrd) = (noise(700_000, 5), vec![7; 2_000_000]);
    let grub = GRUB.replace("/boot/", "/@/boot/");
    let plain: &[(&str, &[u8])] = &[
        ("/boot/grub2/grub.cfg", GRUB.as_bytes()),
        ("/boot/vmlinuz-6.1", &kernel),
        ("/boot/initrd.img-6.1", &initrd),
    ];
    let Some(image) = btrfs("root", &[], plain) else { return };
    let choice = chosen(root_of(&image)).unwrap();
    assert!(choice.kernel == kernel && choice.initrds == [initrd.clone()]);
    assert!(choice.reason.starts_with("partition 1 (btrfs, GPT): /boot/grub2/grub.cfg"));

    let inside: &[(&str, &[u8])] = &[
        ("/@/boot/grub/grub.cfg", grub.as_bytes()),
        ("/@/boot/vmlinuz-6.1", &kernel),
        ("/@/boot/initrd.img-6.1", &initrd),
        ("/@home/x", b""),
    ];
    // Older tools make no subvolumes from a directory.
    let help =
        Command::new("mkfs.btrfs").env("PATH", "/usr/sbin:/sbin:/usr/bin").arg("--help").output();
    let has_subvolumes = help.is_ok_and(|help| {
        String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).contains("--subvol")
    });
    if !has_subvolumes {
        eprintln!("skipped: this mkfs.btrfs cannot make subvolumes");
        return;
    }
    for option in ["rw:@", "default:@"] {
        let image = btrfs("root", &["--subvol", option], inside).unwrap();
        let choice = chosen(root_of(&image)).unwrap();
        assert!(choice.kernel == kernel && choice.initrds == [initrd.clone()], "{option}");
    }
}

#[test]
fn the_efi_partition_last_of_all() {
    let entry = "title Linux\nversion 6.12\nlinux /vmlinuz\ninitrd /ucode.img\ninitrd /initrd\n\
                 options root=x\n";
    let kernel = noise(300_000, 6);
    let unified = uki::build(&[
        (b".cmdline", b"root=y\0"),
        (b".initrd\0", b"unified initrd"),
        (b".linux\0\0", &kernel),
    ]);
    let older = uki::build(&[(b".cmdline", b"old"), (b".linux\0\0", b"old")]);
    let esp = |bytes: Vec<u8>| gpt(&[Part { number: 1, name: "", kind: ESP, bytes: &bytes }], 512);

    let entries: &[(&str, &[u8])] = &[
        ("/loader/loader.conf", b"default old*\n"),
        ("/loader/entries/old-1.conf", entry.as_bytes()),
        ("/loader/entries/new-2.conf", b"linux /none\n"),
        ("/vmlinuz", &kernel),
        ("/ucode.img", b"ucode"),
        ("/initrd", b"initrd"),
    ];
    let Some(image) = fat("ESP", entries) else { return };
    let choice = chosen(esp(image)).unwrap();
    assert!(choice.kernel == kernel);
    assert_eq!(choice.initrds, [b"ucode".to_vec(), b"initrd".to_vec()]);
    assert_eq!(choice.cmdline, "root=x");
    assert!(choice.reason.contains("default old* in loader.conf"), "{}", choice.reason);

    let images: &[(&str, &[u8])] = &[
        ("/EFI/Linux/fedora-6.9.efi", &older),
        ("/EFI/Linux/fedora-6.12.efi", &unified),
        ("/EFI/BOOT/BOOTX64.EFI", b"MZ"),
    ];
    let choice = chosen(esp(fat("ESP", images).unwrap())).unwrap();
    assert!(choice.kernel == kernel);
    assert_eq!((choice.cmdline.as_str(), choice.initrds.len()), ("root=y", 1));
    assert!(
        choice.reason.contains("/EFI/Linux/fedora-6.12.efi, unified kernel image (the newest)")
    );
}

#[test]
fn a_stub_on_the_efi_partition_finds_what_lies_off_the_usual_path() {
    let stub = "search.fs_uuid 11112222-3333-4444-5555-666677778888 root\n\
                set prefix=($root)'/odd/grub'\nconfigfile $prefix/grub.cfg\n";
    let Some(esp) = fat("UEFI", &[("/EFI/debian/grub.cfg", stub.as_bytes())]) else { return };
    let files: &[(&str, &[u8])] = &[
        ("/odd/grub/grub.cfg", GRUB.as_bytes()),
        ("/boot/vmlinuz-6.1", b"kernel"),
        ("/boot/initrd.img-6.1", b"initrd"),
    ];
    let Some(root) = ext("ext4", "root", &[], files) else { return };
    let disk = gpt(
        &[
            Part { number: 15, name: "", kind: ESP, bytes: &esp },
            Part { number: 1, name: "", kind: LINUX, bytes: &root },
        ],
        512,
    );
    let choice = chosen(disk).unwrap();
    assert_eq!(choice.kernel, b"kernel");
    assert!(
        choice.reason.contains(
            "/EFI/debian/grub.cfg by way of (hd0,gpt1)/odd/grub/grub.cfg, entry 0 'Debian GNU/Linux' \
             (default=0): /boot/vmlinuz-6.1 on partition 1"
        ),
        "{}",
        choice.reason
    );
}

#[test]
fn a_refusal_says_what_was_seen() {
    assert_eq!(
        refused(vec![0; 1 << 20]),
        "no bootable system found on the disk (no partition table): looked for grub.cfg, loader \
         entries, menu.lst, extlinux or syslinux configuration and unified kernel images; saw the \
         whole disk: nothing known"
    );
    let grub = "menuentry 'Gone' { linux /boot/gone\n }\n";
    let Some(root) = ext("ext4", "data", &[], &[("/boot/grub/grub.cfg", grub.as_bytes())]) else {
        return;
    };
    let Some(empty) = ext("ext2", "", &[], &[("/x", b"")]) else { return };
    let mut lvm = vec![0; 4096];
    lvm[512..520].copy_from_slice(b"LABELONE");
    lvm[536..544].copy_from_slice(b"LVM2 001");
    let part = |number, bytes| Part { number, name: "", kind: LINUX, bytes };
    let disk = gpt(
        &[
            part(1, root.as_slice()),
            part(2, b"LUKS\xba\xbe\0\x02"),
            part(3, lvm.as_slice()),
            part(4, empty.as_slice()),
        ],
        512,
    );
    let text = refused(disk);
    let saw = text.split_once("saw ").unwrap().1;
    assert_eq!(
        saw,
        "partition 1: ext4 'data', /boot/grub/grub.cfg: /boot/gone does not exist; partition 2: \
         LUKS (encrypted); partition 3: LVM physical volume; partition 4: ext2, none of these"
    );
}

#[test]
fn an_unknown_feature_is_declined_by_name() {
    let Some(mut image) = ext("ext4", "root", &[], &[("/boot/grub/grub.cfg", GRUB.as_bytes())])
    else {
        return;
    };
    // A feature that does not exist yet.
    image[1024 + 96 + 3] |= 0x40;
    let text = refused(root_of(&image));
    assert!(text.contains("partition 1: ext4 'root', cannot be read: "), "{text}");
}

#[test]
fn files_larger_than_the_guest_are_not_loaded() {
    let big = noise(3_000_000, 8);
    let files: &[(&str, &[u8])] = &[
        ("/boot/grub/grub.cfg", GRUB.as_bytes()),
        ("/boot/vmlinuz-6.1", &big),
        ("/boot/initrd.img-6.1", &big),
    ];
    let Some(image) = ext("ext4", "root", &[], files) else { return };
    let disk: Arc<dyn BlockBackend> = Arc::new(MemoryDisk::new(root_of(&image), 512));
    let choose_in = |memory_bytes| {
        choose(&disk, &BootPolicy { memory_bytes, ..BootPolicy::default() }).map_err(|e| e.0)
    };
    assert!(choose_in(6_000_000).is_ok());
    let text = choose_in(5_999_999).err().unwrap();
    assert!(
        text.contains("/boot/initrd.img-6.1 is 3000000 bytes long, more than the 2999999"),
        "{text}"
    );
}

#[test]
fn a_disk_that_does_not_answer_is_not_waited_for() {
    let disk: Arc<dyn BlockBackend> = Arc::new(MemoryDisk::new(vec![0; 4096], 512));
    let policy = BootPolicy { timeout: Duration::ZERO, ..BootPolicy::default() };
    // With no time at all the answer is still one of the two, and there is one.
    let text = choose(&disk, &policy).err().unwrap().0;
    assert!(text.contains("took longer than 0 s") || text.contains("nothing known"), "{text}");
}
