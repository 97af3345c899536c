//! The memory of one table: cells for its small entries and its segments.
//!
//! ```text
//! region  2 MiB, aligned to its size, mapped from the kernel and given back whole
//! ├─ page  0  64 KiB   starts with the region's header: one descriptor per page
//! ├─ page  1  64 KiB   cells of one size class, handed out from the front, then from a free list threaded through them
//! └─ page 31  64 KiB
//! ```
//!
//! General allocators round 56 bytes to 64; here classes are 8 bytes apart up to 1 KiB (64 above), and because regions are
//! aligned, the descriptor of a cell follows from its address: a cell carries no header. The first [`SMALL_REGIONS`] are
//! kept on ordinary pages, so a server with little data touches only what it uses; later ones ask for huge pages, which
//! spare most of the TLB misses of random reads. (Redis has to avoid huge pages because it forks; nothing forks here.)
//! The design is that of Bonwick's slab allocator (USENIX 1994) with mimalloc's page lists (Leijen et al., 2019).
//!
//! It refuses nothing: what is larger than [`CELL_MAX`] comes from the global allocator.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{self, NonNull};

const REGION: usize = 2 << 20;
const PAGE: usize = 64 << 10;
const PAGES: usize = REGION / PAGE;
/// Regions of a table that stay on ordinary pages.
const SMALL_REGIONS: usize = 4;

/// Offsets within a page are counted in these, so that they fit 16 bits.
const GRAIN: usize = 8;
const FINE_MAX: usize = 1024;
const COARSE_STEP: usize = 64;
/// The largest cell, in bytes.
pub(super) const CELL_MAX: usize = FINE_MAX + 56 * COARSE_STEP;
const FINE_CLASSES: usize = FINE_MAX / GRAIN;
const CLASSES: usize = FINE_CLASSES + (CELL_MAX - FINE_MAX) / COARSE_STEP;

/// Addresses stay below this: slots keep hash bits above it. Linux gives higher ones only to those who ask.
const ADDRESS_END: usize = 1 << 48;
/// The end of a page's free list.
const NONE: u16 = u16::MAX;

/// The descriptor of one page, in its region's header.
#[repr(C)]
struct Page {
    /// Neighbours in the list of pages of this class that have a free cell.
    next: *mut Page,
    prev: *mut Page,
    /// First cell of the free list.
    free: u16,
    /// First cell never handed out.
    fresh: u16,
    /// Cells in use.
    used: u16,
    class: u16,
    /// The page's number in its region.
    number: usize,
}

#[repr(C, align(64))]
struct Region {
    pages: [Page; PAGES],
    /// One bit per page that belongs to no class.
    vacant: u32,
}

const ALL_VACANT: u32 = u32::MAX;
const _: () = assert!(PAGES == u32::BITS as usize && PAGE / GRAIN < NONE as usize);

/// See the module's documentation.
pub(super) struct Slab {
    /// Per class, the first page with a free cell.
    partial: Box<[*mut Page; CLASSES]>,
    regions: Vec<NonNull<Region>>,
    /// Regions with a vacant page.
    roomy: Vec<NonNull<Region>>,
    used_bytes: usize,
    oversized: usize,
}

// SAFETY: every pointer in a slab leads into regions that it alone owns.
unsafe impl Send for Slab {}

/// The bytes that a request for `size` really takes.
pub(super) fn cell_size(size: usize) -> usize {
    if size > CELL_MAX { size.next_multiple_of(GRAIN) } else { class_size(class_of(size)) }
}

fn class_of(size: usize) -> usize {
    if size <= FINE_MAX {
        size.max(GRAIN).div_ceil(GRAIN) - 1
    } else {
        FINE_CLASSES + (size - FINE_MAX).div_ceil(COARSE_STEP) - 1
    }
}

fn class_size(class: usize) -> usize {
    if class < FINE_CLASSES { (class + 1) * GRAIN } else { FINE_MAX + (class - FINE_CLASSES + 1) * COARSE_STEP }
}

fn oversized_layout(size: usize) -> Layout {
    Layout::from_size_align(cell_size(size), GRAIN).expect("a key and a value in memory are smaller than isize::MAX")
}

impl Slab {
    pub(super) fn new() -> Slab {
        Slab {
            partial: Box::new([ptr::null_mut(); CLASSES]),
            regions: Vec::new(),
            roomy: Vec::new(),
            used_bytes: 0,
            oversized: 0,
        }
    }

    /// Bytes handed out, rounding included.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Cells that came from the global allocator and do not go with the regions.
    pub(super) fn oversized(&self) -> usize {
        self.oversized
    }

    /// Hands out uninitialised memory for `size` bytes, aligned to 8 (to 64 if the size is a multiple of 64 above 1 KiB).
    pub(super) fn alloc(&mut self, size: usize) -> NonNull<u8> {
        self.used_bytes += cell_size(size);
        if size > CELL_MAX {
            return self.alloc_oversized(size);
        }
        let class = class_of(size);
        if self.partial[class].is_null() {
            self.open_page(class);
        }
        let page = self.partial[class];
        // SAFETY: a page in a partial list is a descriptor in one of our regions and has a free or a fresh cell.
        unsafe {
            let cell = Page::take_cell(page);
            if !Page::has_room(page) {
                self.unlink(page);
            }
            cell
        }
    }

    fn alloc_oversized(&mut self, size: usize) -> NonNull<u8> {
        let layout = oversized_layout(size);
        // SAFETY: the layout's size is over CELL_MAX, so not zero.
        let cell = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        assert!(cell.addr().get() < ADDRESS_END, "the allocator gave an address beyond 48 bits");
        self.oversized += 1;
        cell
    }

    /// Takes a cell back.
    ///
    /// # Safety
    /// `cell` came from this slab's `alloc` for a size with the same [`cell_size`], and is not used afterwards.
    pub(super) unsafe fn free(&mut self, cell: NonNull<u8>, size: usize) {
        self.used_bytes -= cell_size(size);
        if size > CELL_MAX {
            self.oversized -= 1;
            // SAFETY: by the contract, `cell` was allocated with this very layout.
            return unsafe { std::alloc::dealloc(cell.as_ptr(), oversized_layout(size)) };
        }
        let offset = cell.addr().get() & (REGION - 1);
        let region = cell.as_ptr().map_addr(|address| address & !(REGION - 1)).cast::<Region>();
        // SAFETY: the cell lies in a region of ours, whose header is at its start; its page is in use, so it is linked
        // exactly when it has room.
        unsafe {
            let page = &raw mut (*region).pages[offset / PAGE];
            let was_full = !Page::has_room(page);
            Page::put_cell(page, cell);
            if was_full {
                self.link(page);
            }
            if (*page).used == 0 {
                self.close_page(page);
            }
        }
    }

    /// Gives a vacant page to `class` and links it.
    fn open_page(&mut self, class: usize) {
        let region = match self.roomy.last() {
            Some(region) => *region,
            None => self.map_region(),
        };
        // SAFETY: `region` is one of ours and has a vacant page, being in `roomy`.
        unsafe {
            let region = region.as_ptr();
            let number = (*region).vacant.trailing_zeros() as usize;
            (*region).vacant &= !(1 << number);
            if (*region).vacant == 0 {
                self.roomy.pop();
            }
            let fresh = if number == 0 { size_of::<Region>() / GRAIN } else { 0 } as u16;
            let page = &raw mut (*region).pages[number];
            let (next, prev) = (ptr::null_mut(), ptr::null_mut());
            page.write(Page { next, prev, free: NONE, fresh, used: 0, class: class as u16, number });
            self.link(page);
        }
    }

    /// Returns an unused page to its region, and the region to the kernel if that was its last page in use and another
    /// region still has room (so that a cell freed and taken again does not map and unmap).
    ///
    /// # Safety
    /// `page` is a linked page of ours without a cell in use.
    unsafe fn close_page(&mut self, page: *mut Page) {
        // SAFETY: by the contract.
        unsafe {
            self.unlink(page);
            let region = page.map_addr(|address| address & !(REGION - 1)).cast::<Region>();
            if (*region).vacant == 0 {
                self.roomy.push(NonNull::new_unchecked(region));
            }
            (*region).vacant |= 1 << (*page).number;
            if (*region).vacant == ALL_VACANT && self.roomy.len() > 1 {
                self.roomy.retain(|other| other.as_ptr() != region);
                self.regions.retain(|other| other.as_ptr() != region);
                unmap(region.cast(), REGION);
            }
        }
    }

    /// # Safety
    /// `page` is ours and in no list.
    unsafe fn link(&mut self, page: *mut Page) {
        // SAFETY: by the contract; the list's pages are ours.
        unsafe {
            let head = &mut self.partial[(*page).class as usize];
            (*page).next = *head;
            (*page).prev = ptr::null_mut();
            if let Some(next) = head.as_mut() {
                next.prev = page;
            }
            *head = page;
        }
    }

    /// # Safety
    /// `page` is ours and in its class's list.
    unsafe fn unlink(&mut self, page: *mut Page) {
        // SAFETY: by the contract; its neighbours are ours.
        unsafe {
            match (*page).prev.as_mut() {
                Some(prev) => prev.next = (*page).next,
                None => self.partial[(*page).class as usize] = (*page).next,
            }
            if let Some(next) = (*page).next.as_mut() {
                next.prev = (*page).prev;
            }
        }
    }

    fn map_region(&mut self) -> NonNull<Region> {
        let huge = self.regions.len() >= SMALL_REGIONS;
        let region = map_aligned(huge).cast::<Region>();
        // SAFETY: fresh zeroed memory of REGION bytes, aligned to REGION; all-zero is a valid `Region`.
        unsafe { (*region.as_ptr()).vacant = ALL_VACANT };
        self.regions.push(region);
        self.roomy.push(region);
        region
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        for region in &self.regions {
            // SAFETY: the regions are ours, and the table that used them is gone.
            unsafe { unmap(region.as_ptr().cast(), REGION) };
        }
    }
}

impl Page {
    /// # Safety
    /// `page` is the descriptor of a page in use.
    unsafe fn has_room(page: *mut Page) -> bool {
        // SAFETY: by the contract.
        let page = unsafe { &*page };
        page.free != NONE || page.fresh as usize * GRAIN + class_size(page.class as usize) <= PAGE
    }

    /// # Safety
    /// `page` is the descriptor of a page that has room.
    unsafe fn take_cell(page: *mut Page) -> NonNull<u8> {
        // SAFETY: by the contract; a free cell starts with the number of the next one.
        unsafe {
            let start = page.map_addr(|address| address & !(REGION - 1)).cast::<u8>().add((*page).number * PAGE);
            (*page).used += 1;
            let grain = if (*page).free == NONE {
                let fresh = (*page).fresh;
                (*page).fresh += (class_size((*page).class as usize) / GRAIN) as u16;
                fresh
            } else {
                let free = (*page).free;
                (*page).free = start.add(free as usize * GRAIN).cast::<u16>().read();
                free
            };
            NonNull::new_unchecked(start.add(grain as usize * GRAIN))
        }
    }

    /// # Safety
    /// `cell` was taken from this page.
    unsafe fn put_cell(page: *mut Page, cell: NonNull<u8>) {
        // SAFETY: by the contract the cell is ours again, and no cell is shorter than a grain.
        unsafe {
            cell.cast::<u16>().write((*page).free);
            (*page).free = ((cell.addr().get() & (PAGE - 1)) / GRAIN) as u16;
            (*page).used -= 1;
        }
    }
}

/// Maps REGION bytes aligned to REGION; ends the process as any failed allocation does when the kernel has none.
fn map_aligned(huge: bool) -> NonNull<u8> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice disturbs nobody.
    let Ok(wide) = (unsafe { mmap_anonymous(ptr::null_mut(), 2 * REGION, protection, flags) }) else {
        handle_alloc_error(Layout::new::<[u8; REGION]>());
    };
    let wide = wide.cast::<u8>();
    let before = wide.addr().next_multiple_of(REGION) - wide.addr();
    // SAFETY: the aligned REGION bytes lie within the mapping just made; what is left on both sides is unused.
    let region = unsafe {
        let region = wide.add(before);
        unmap(wide, before);
        unmap(region.add(REGION), REGION - before);
        NonNull::new_unchecked(region)
    };
    assert!(region.addr().get() < ADDRESS_END, "the kernel gave an address beyond 48 bits");
    advise(region, huge);
    region
}

/// # Safety
/// The range is a mapping of ours that nobody uses any more.
unsafe fn unmap(start: *mut u8, size: usize) {
    if size > 0 {
        // SAFETY: by the contract. It can only fail for want of kernel memory, and then the range merely stays mapped.
        let _ = unsafe { munmap(start.cast(), size) };
    }
}

/// Says whether the region should be on a huge page; a kernel without them may refuse, and nothing is lost.
#[cfg(target_os = "linux")]
fn advise(region: NonNull<u8>, huge: bool) {
    let advice = if huge { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
    // SAFETY: the advice changes how the range is backed, not what it holds.
    let _ = unsafe { madvise(region.as_ptr().cast(), REGION, advice) };
}

#[cfg(not(target_os = "linux"))]
fn advise(_region: NonNull<u8>, _huge: bool) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        for size in 0..=CELL_MAX {
            let class = class_of(size);
            assert!(class < CLASSES && class_size(class) >= size);
            assert!(class == 0 || class_size(class - 1) < size, "size {size} would fit a smaller class");
        }
        assert_eq!(cell_size(56), 56);
    }

    #[test]
    fn cells_do_not_overlap() {
        let mut slab = Slab::new();
        let mut cells: Vec<(NonNull<u8>, usize, u8)> = Vec::new();
        for round in 0..40_000usize {
            let size = 1 + (round * 7919) % (CELL_MAX + 200);
            let cell = slab.alloc(size);
            // SAFETY: the cell has `size` bytes.
            unsafe { cell.as_ptr().write_bytes(round as u8, size) };
            cells.push((cell, size, round as u8));
            if round % 3 == 0 {
                let (cell, size, mark) = cells.swap_remove((round * 31) % cells.len());
                // SAFETY: allocated and written above, freed once.
                unsafe {
                    assert!(std::slice::from_raw_parts(cell.as_ptr(), size).iter().all(|byte| *byte == mark));
                    slab.free(cell, size);
                }
            }
        }
        for (cell, size, mark) in cells {
            // SAFETY: as above.
            unsafe {
                assert!(std::slice::from_raw_parts(cell.as_ptr(), size).iter().all(|byte| *byte == mark));
                slab.free(cell, size);
            }
        }
        assert_eq!((slab.used_bytes(), slab.oversized()), (0, 0));
    }

    #[test]
    fn freed_regions_go_back_to_the_kernel() {
        let mut slab = Slab::new();
        let cells: Vec<_> = (0..300_000).map(|_| slab.alloc(56)).collect();
        let mapped = slab.regions.len();
        assert!(mapped * REGION < 300_000 * 56 * 11 / 10 + REGION, "{mapped} regions for 16.8 MB");
        for cell in cells {
            // SAFETY: allocated above with this size.
            unsafe { slab.free(cell, 56) };
        }
        assert_eq!(slab.regions.len(), 1, "one region is kept for the next cell");
    }

    #[test]
    fn segments_start_on_a_cache_line() {
        let mut slab = Slab::new();
        assert!((0..1000).all(|_| slab.alloc(1088).addr().get().is_multiple_of(64)));
    }
}
