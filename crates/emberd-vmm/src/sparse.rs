//! Copies files and leaves their holes: most of a guest's memory was never touched.

use std::fs::File;
use std::io::{self, Read as _};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Copies the data of `from` into `to`, which is empty and gets the same length.
pub(crate) fn copy(from: &mut File, to: &mut File) -> io::Result<()> {
    let length = from.metadata()?.len();
    let mut end = 0;
    loop {
        let start = match seek(&*from, SeekFrom::Data(end)) {
            Ok(start) => start,
            // No data follows.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        end = seek(&*from, SeekFrom::Hole(start))?;
        for file in [&*from, &*to] {
            seek(file, SeekFrom::Start(start))?;
        }
        io::copy(&mut (&mut *from).take(end - start), to)?;
    }
    to.set_len(length)
}
