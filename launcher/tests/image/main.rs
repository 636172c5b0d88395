//! `berth image` beside `qemu-img`: the same answers about the same images, and images that it finds
//! nothing wrong with after what was done to them.

mod change;
mod check;
mod info;
mod tools;
