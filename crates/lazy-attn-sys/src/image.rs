//! Where the kernel image is, and for which devices it has code.

use std::fmt;
use std::path::{Path, PathBuf};

/// Environment variable that names the image.
pub const IMAGE_VARIABLE: &str = "LAZY_ATTN_KERNELS";
/// Name of the image's file.
pub const IMAGE_FILE: &str = "lazy_kernels.fatbin";

/// First word of a fat binary, and bytes of the headers in front of its parts.
const MAGIC: u32 = 0xba55_ed50;
const HEADER_BYTES: usize = 16;
const MIN_PART_HEADER_BYTES: usize = 32;

/// Why there is no kernel image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It lies in none of its places.
    #[error(
        "no CUDA kernel image: {IMAGE_VARIABLE} is not set, there is no {IMAGE_FILE} beside the executable ({}), and none \
         in target/kernels of a checkout around it; build it with `cargo xtask kernels`, then put it beside the \
         executable or let {IMAGE_VARIABLE} name it",
        beside.display()
    )]
    NotFound {
        /// Folder of the executable.
        beside: PathBuf,
    },
    /// It is there, but cannot be read.
    #[error(
        "cannot read the CUDA kernel image {}: {source}; build it with `cargo xtask kernels`, or correct or unset \
         {IMAGE_VARIABLE}",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Where an image may lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagePlaces {
    /// The file somebody named; if there is one, nothing else is tried.
    pub named: Option<PathBuf>,
    /// The executable: the image may lie beside it, or in `target/kernels` of a folder above it.
    pub executable: PathBuf,
}

impl ImagePlaces {
    /// The places of this process: [`IMAGE_VARIABLE`] and its executable.
    #[must_use]
    pub fn of_process() -> ImagePlaces {
        let named = std::env::var_os(IMAGE_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        ImagePlaces { named, executable: std::env::current_exe().unwrap_or_default() }
    }

    /// The file of the image.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn find(&self) -> Result<PathBuf, ImageError> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let beside = self.executable.parent().unwrap_or(Path::new("")).to_owned();
        let built = self.executable.ancestors().map(|above| above.join("target/kernels").join(IMAGE_FILE));
        let mut places = std::iter::once(beside.join(IMAGE_FILE)).chain(built);
        places.find(|path| path.is_file()).ok_or(ImageError::NotFound { beside })
    }
}

/// A kernel image.
#[derive(Clone, PartialEq, Eq)]
pub struct KernelImage {
    /// Where it was found.
    pub path: PathBuf,
    /// Its bytes, for `Kernels::load`.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for KernelImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.bytes.len();
        f.debug_struct("KernelImage").field("path", &self.path).field("size", &size).finish()
    }
}

impl KernelImage {
    /// Reads the image of this process: the file that [`IMAGE_VARIABLE`] names, else [`IMAGE_FILE`] beside the executable,
    /// else the one that `cargo xtask kernels` built in the checkout around it.
    ///
    /// # Errors
    /// [`ImageError`] naming the places and what to do.
    pub fn find() -> Result<KernelImage, ImageError> {
        KernelImage::read(&ImagePlaces::of_process())
    }

    /// The same with other places.
    ///
    /// # Errors
    /// As of [`KernelImage::find`].
    pub fn read(places: &ImagePlaces) -> Result<KernelImage, ImageError> {
        let path = places.find()?;
        match std::fs::read(&path) {
            Ok(bytes) => Ok(KernelImage { path, bytes }),
            Err(source) => Err(ImageError::Unreadable { path, source }),
        }
    }

    /// What a fat binary has code for; empty for another kind of image, of which only the driver can tell.
    #[must_use]
    pub fn codes(&self) -> Vec<ImageCode> {
        codes(&self.bytes).unwrap_or_default()
    }

    /// Whether some code of it runs on a device; true for a kind of image of which only the driver can tell.
    #[must_use]
    pub fn may_run_on(&self, compute_capability: (i32, i32)) -> bool {
        let codes = self.codes();
        codes.is_empty() || codes.iter().any(|code| code.runs_on(compute_capability))
    }
}

/// A part of a fat binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageCode {
    /// Machine code: runs on this compute capability, and on later ones of the same major number.
    Machine((i32, i32)),
    /// Text that the driver compiles for this compute capability or any later one.
    Ptx((i32, i32)),
}

impl ImageCode {
    /// Whether a device of this compute capability runs it.
    #[must_use]
    pub fn runs_on(self, device: (i32, i32)) -> bool {
        match self {
            ImageCode::Machine(built) => built.0 == device.0 && built.1 <= device.1,
            ImageCode::Ptx(built) => built <= device,
        }
    }
}

impl fmt::Display for ImageCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageCode::Machine((major, minor)) => write!(f, "sm_{major}{minor}"),
            ImageCode::Ptx((major, minor)) => write!(f, "PTX {major}.{minor}"),
        }
    }
}

/// Reads the headers: a fat binary is a header of 16 bytes, then parts, each with its kind (1 PTX, 2 machine code), the
/// size of its own header, the size of its content, and at byte 28 ten times the major plus the minor capability.
fn codes(bytes: &[u8]) -> Option<Vec<ImageCode>> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    if u32::from_le_bytes(*header.first_chunk()?) != MAGIC {
        return None;
    }
    let mut codes = Vec::new();
    let mut rest = &bytes[HEADER_BYTES..];
    while rest.len() >= MIN_PART_HEADER_BYTES {
        let kind = u16::from_le_bytes(*rest.first_chunk()?);
        let header_size = u64::from(u32::from_le_bytes(*rest[4..].first_chunk()?));
        let size = u64::from_le_bytes(*rest[8..].first_chunk()?);
        let capability = i32::from_le_bytes(*rest[28..].first_chunk()?);
        let capability = (capability / 10, capability % 10);
        match kind {
            1 => codes.push(ImageCode::Ptx(capability)),
            2 => codes.push(ImageCode::Machine(capability)),
            _ => {}
        }
        let end = usize::try_from(header_size.checked_add(size)?).ok()?;
        rest = rest.get(end.max(MIN_PART_HEADER_BYTES)..)?;
    }
    Some(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fat binary of parts with empty contents.
    fn fat_binary(parts: &[(u16, i32)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.resize(HEADER_BYTES, 0);
        for &(kind, capability) in parts {
            let mut part = vec![0u8; 64 + 8];
            part[..2].copy_from_slice(&kind.to_le_bytes());
            part[4..8].copy_from_slice(&64u32.to_le_bytes());
            part[8..16].copy_from_slice(&8u64.to_le_bytes());
            part[28..32].copy_from_slice(&capability.to_le_bytes());
            bytes.extend(part);
        }
        bytes
    }

    fn image(bytes: Vec<u8>) -> KernelImage {
        KernelImage { path: PathBuf::new(), bytes }
    }

    /// An empty folder for one test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lazy-attn-image-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_fat_binary_tells_which_devices_it_has_code_for() {
        let image = image(fat_binary(&[(2, 80), (2, 90), (2, 120), (1, 80)]));
        let names: Vec<String> = image.codes().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["sm_80", "sm_90", "sm_120", "PTX 8.0"]);
        assert!(image.may_run_on((9, 0)) && image.may_run_on((10, 3)), "the driver compiles the text");
        assert!(!image.may_run_on((7, 5)));
    }

    #[test]
    fn machine_code_runs_on_later_devices_of_its_major_number_only() {
        let machine = image(fat_binary(&[(2, 80)]));
        let runs = [(8, 0), (8, 9), (9, 0), (7, 5)].map(|device| machine.may_run_on(device));
        assert_eq!(runs, [true, true, false, false]);
    }

    #[test]
    fn of_other_images_only_the_driver_can_tell() {
        for bytes in [vec![], b"\x7fELF and so on, longer than a header".to_vec()] {
            let other = image(bytes);
            assert!(other.codes().is_empty() && other.may_run_on((9, 0)));
        }
        let mut cut = fat_binary(&[(2, 80), (2, 90)]);
        cut.truncate(100);
        assert!(image(cut).codes().len() <= 2, "a cut one is read without a panic");
    }

    #[test]
    fn the_image_is_looked_for_by_name_then_beside_the_executable_then_in_the_checkout() {
        let root = folder("places");
        let (beside, built) = (root.join("target/release"), root.join("target/kernels"));
        std::fs::create_dir_all(&beside).unwrap();
        std::fs::create_dir_all(&built).unwrap();
        let mut places = ImagePlaces { named: None, executable: beside.join("lazyattn") };
        assert!(matches!(places.find(), Err(ImageError::NotFound { .. })));
        std::fs::write(built.join(IMAGE_FILE), "built").unwrap();
        assert_eq!(KernelImage::read(&places).unwrap().bytes, b"built");
        std::fs::write(beside.join(IMAGE_FILE), "beside").unwrap();
        assert_eq!(KernelImage::read(&places).unwrap().bytes, b"beside");
        places.named = Some(root.join("other"));
        assert!(matches!(KernelImage::read(&places), Err(ImageError::Unreadable { .. })));
        std::fs::write(root.join("other"), "named").unwrap();
        assert_eq!(KernelImage::read(&places).unwrap().bytes, b"named");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_error_names_every_place_and_the_remedy() {
        let places = ImagePlaces { named: None, executable: folder("none").join("bin/lazyattn") };
        let error = places.find().unwrap_err().to_string();
        for part in ["LAZY_ATTN_KERNELS", "bin", "target/kernels", "cargo xtask kernels"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
