//! The `repld` program: see [`repld::run`].

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    repld::run(std::env::args_os().skip(1).collect())
}
