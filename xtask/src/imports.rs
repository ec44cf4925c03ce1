//! Import cycles between files. A reader follows imports from the top down; in a cycle there is no top.
//!
//! Each crate is read from its root. An edge goes from a file to the file that defines what it imports; re-exports are
//! followed to where they lead. A module and those within it may import each other. Test modules are left out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};
use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, File, Ident, Item, ItemMod, ItemUse, UseTree, Visibility,
    visit::{self, Visit},
};
use xtask::bpf::toolchain::workspace;

/// Roots of the crates that are checked.
const ROOTS: &[&str] = &[
    "tcpguard-common/src/lib.rs",
    "tcpguard-ebpf/src/main.rs",
    "tcpguard/src/lib.rs",
    "tests/src/lib.rs",
    "xtask/src/lib.rs",
    "xtask/src/main.rs",
];

/// Checks all crates.
///
/// # Errors
/// Returns an error that names the files of each cycle.
pub fn check() -> Result<()> {
    let mut problems = Vec::new();
    for root in ROOTS {
        let krate = Crate::read(&workspace().join(root))?;
        for cycle in krate.cycles() {
            let edges: Vec<String> =
                cycle.iter().map(|(from, to)| format!("  {} imports {}", from.display(), to.display())).collect();
            problems.push(format!("{root}: these files import each other:\n{}", edges.join("\n")));
        }
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// Names from the crate's root down, without `crate`.
type ModulePath = Vec<String>;

/// What one module consists of.
#[derive(Default)]
struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    defined: BTreeSet<String>,
    /// Name here, and the path it stands for.
    imported: HashMap<String, ModulePath>,
    globs: Vec<ModulePath>,
    /// Absolute paths that the module uses.
    used: BTreeSet<ModulePath>,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

impl Crate {
    fn read(root: &Path) -> Result<Self> {
        let mut krate = Self::default();
        let folder = root.parent().context("a root without a folder")?;
        krate.read_file(root, folder, Vec::new())?;
        Ok(krate)
    }

    /// Reads a module's file. Its children are files in `folder`.
    fn read_file(&mut self, file: &Path, folder: &Path, path: ModulePath) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed: File = syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        self.read_items(&parsed.items, file, folder, path)
    }

    fn read_items(&mut self, items: &[Item], file: &Path, folder: &Path, path: ModulePath) -> Result<()> {
        let mut reader = Reader { module: Module { file: file.to_owned(), ..Module::default() }, path: path.clone() };
        let mut children = Vec::new();
        for item in items {
            match item {
                Item::Mod(module) if is_for_tests(&module.attrs) => {}
                Item::Mod(module) => children.push(module),
                other => reader.visit_item(other),
            }
        }
        reader.module.children = children.iter().map(|child| child.ident.to_string()).collect();
        self.modules.insert(path.clone(), reader.module);
        children.into_iter().try_for_each(|child| self.read_child(child, file, folder, &path))
    }

    fn read_child(&mut self, child: &ItemMod, file: &Path, folder: &Path, path: &ModulePath) -> Result<()> {
        let name = child.ident.to_string();
        let mut child_path = path.clone();
        child_path.push(name.clone());
        let child_folder = folder.join(&name);
        if let Some((_, items)) = &child.content {
            return self.read_items(items, file, &child_folder, child_path);
        }
        let candidates = [folder.join(format!("{name}.rs")), child_folder.join("mod.rs")];
        let found = candidates.iter().find(|candidate| candidate.exists());
        let found = found.with_context(|| format!("{}: no file for the module {name}", file.display()))?;
        self.read_file(found, &child_folder, child_path)
    }

    /// Returns the file that defines what `path` names.
    fn definition(&self, path: &[String], depth: usize) -> Option<&Path> {
        let mut at = Vec::new();
        for (index, name) in path.iter().enumerate() {
            let module = self.modules.get(&at)?;
            if module.children.contains(name) {
                at.push(name.clone());
                continue;
            }
            if depth > 0
                && !module.defined.contains(name)
                && let Some(target) = self.reexport(module, name, depth)
            {
                let rest = target.iter().chain(&path[index + 1..]).cloned().collect::<Vec<_>>();
                return self.definition(&rest, depth - 1);
            }
            break;
        }
        self.modules.get(&at).map(|module| module.file.as_path())
    }

    fn reexport(&self, module: &Module, name: &str, depth: usize) -> Option<ModulePath> {
        if let Some(target) = module.imported.get(name) {
            return Some(target.clone());
        }
        let mut candidates = module.globs.iter().map(|glob| {
            let mut target = glob.clone();
            target.push(name.to_owned());
            target
        });
        candidates.find(|target| self.defines(target, depth))
    }

    fn defines(&self, target: &[String], depth: usize) -> bool {
        let Some((name, module)) = target.split_last() else { return false };
        self.modules.get(module).is_some_and(|module| {
            module.defined.contains(name)
                || module.children.contains(name)
                || (depth > 0 && self.reexport(module, name, depth - 1).is_some())
        })
    }

    /// Returns the imports within each cycle.
    fn cycles(&self) -> Vec<Vec<(PathBuf, PathBuf)>> {
        /// Re-exports of re-exports that are followed.
        const DEPTH: usize = 8;
        let mut graph = DiGraphMap::<&Path, ()>::new();
        for (path, module) in &self.modules {
            for used in &module.used {
                let Some(target) = self.definition(used, DEPTH) else { continue };
                let contains = self.is_within(&module.file, target, path);
                if target != module.file && !contains {
                    graph.add_edge(module.file.as_path(), target, ());
                }
            }
        }
        let cycles = tarjan_scc(&graph).into_iter().filter(|files| files.len() > 1);
        let within = |files: &[&Path]| {
            let edges = graph.all_edges().filter(|(from, to, ())| files.contains(from) && files.contains(to));
            edges.map(|(from, to, ())| (from.to_owned(), to.to_owned())).collect()
        };
        cycles.map(|files| within(&files)).collect()
    }

    /// Whether one of both files holds a module that the other's is within.
    fn is_within(&self, file: &Path, target: &Path, path: &ModulePath) -> bool {
        let of_target = self.modules.iter().filter(|(_, module)| module.file == target);
        let mut related = of_target.filter(|(other, _)| path.starts_with(other) || other.starts_with(path));
        file == target || related.next().is_some()
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

/// Collects what one module defines, imports and uses.
struct Reader {
    module: Module,
    path: ModulePath,
}

impl Reader {
    /// Returns the absolute path for one that begins with `crate`, `self` or `super`.
    fn absolute(&self, names: &[String]) -> Option<ModulePath> {
        let mut base = match names.first()?.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => self.path.clone(),
            first if self.module.children.contains(first) => {
                return Some(self.path.iter().chain(names).cloned().collect());
            }
            first => {
                let target = self.module.imported.get(first)?;
                return Some(target.iter().chain(&names[1..]).cloned().collect());
            }
        };
        let mut rest = names;
        if names[0] != "super" {
            rest = &names[1..];
        }
        while rest.first().is_some_and(|name| name == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    fn take_use(&mut self, tree: &UseTree, mut names: Vec<String>, is_public: bool) {
        match tree {
            UseTree::Path(path) => {
                names.push(path.ident.to_string());
                self.take_use(&path.tree, names, is_public);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.take_use(tree, names.clone(), is_public));
            }
            UseTree::Name(name) => self.take_name(names, &name.ident, &name.ident),
            UseTree::Rename(rename) => self.take_name(names, &rename.ident, &rename.rename),
            UseTree::Glob(_) => {
                let target = self.absolute(&names).unwrap_or_else(|| self.path.iter().chain(&names).cloned().collect());
                self.module.used.insert(target.clone());
                if is_public {
                    self.module.globs.push(target);
                }
            }
        }
    }

    fn take_name(&mut self, mut names: Vec<String>, name: &Ident, known_as: &Ident) {
        if name != "self" {
            names.push(name.to_string());
        }
        let is_ours = |first: &str| ["crate", "self", "super"].contains(&first);
        let target = if names.first().is_some_and(|first| is_ours(first)) {
            self.absolute(&names)
        } else {
            // A child of this module, or another crate, which resolves to nothing.
            Some(self.path.iter().chain(&names).cloned().collect())
        };
        if let Some(target) = target {
            let known_as =
                if known_as == "self" { names.last().cloned().unwrap_or_default() } else { known_as.to_string() };
            self.module.imported.insert(known_as, target.clone());
            self.module.used.insert(target);
        }
    }

    fn take_path(&mut self, names: &[String]) {
        if let Some(target) = self.absolute(names) {
            self.module.used.insert(target);
        }
    }

    /// Takes paths out of a macro's arguments, which are not parsed.
    fn take_tokens(&mut self, tokens: TokenStream) {
        let mut names: Vec<String> = Vec::new();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => names.push(ident.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == ':' => {}
                other => {
                    self.take_path(&std::mem::take(&mut names));
                    if let TokenTree::Group(group) = other {
                        self.take_tokens(group.stream());
                    }
                }
            }
        }
        self.take_path(&names);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let (name, attributes) = match item {
            Item::Struct(item) => (Some(&item.ident), &item.attrs),
            Item::Enum(item) => (Some(&item.ident), &item.attrs),
            Item::Union(item) => (Some(&item.ident), &item.attrs),
            Item::Trait(item) => (Some(&item.ident), &item.attrs),
            Item::Type(item) => (Some(&item.ident), &item.attrs),
            Item::Const(item) => (Some(&item.ident), &item.attrs),
            Item::Static(item) => (Some(&item.ident), &item.attrs),
            Item::Fn(item) => (Some(&item.sig.ident), &item.attrs),
            Item::Impl(item) => (None, &item.attrs),
            _ => return visit::visit_item(self, item),
        };
        if is_for_tests(attributes) {
            return;
        }
        self.module.defined.extend(name.map(Ident::to_string));
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.take_use(&item.tree, Vec::new(), !matches!(item.vis, Visibility::Inherited));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.take_path(&names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.take_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the files of a crate and returns its cycles.
    fn cycles_of(name: &str, files: &[(&str, &str)]) -> Vec<Vec<(PathBuf, PathBuf)>> {
        let folder = std::env::temp_dir().join(format!("tcpguard-imports-{name}-{}", std::process::id()));
        for (file, text) in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let cycles = Crate::read(&folder.join("lib.rs")).expect("a crate").cycles();
        fs::remove_dir_all(&folder).expect("removed");
        cycles
    }

    #[test]
    fn this_workspace_has_none() {
        if let Err(cycles) = check() {
            panic!("{cycles}");
        }
    }

    #[test]
    fn two_files_that_import_each_other_are_a_cycle() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A(B);"),
            ("b.rs", "pub struct B; fn f() { crate::a::g(); }"),
        ];
        assert_eq!(cycles_of("two", &files).len(), 1);
    }

    #[test]
    fn a_reexport_does_not_hide_one() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A(B);"),
            ("b/mod.rs", "mod inner; pub use inner::B;"),
            ("b/inner.rs", "use crate::a::A; pub struct B(Box<A>);"),
        ];
        assert_eq!(cycles_of("reexport", &files).len(), 1);
    }

    #[test]
    fn parents_children_and_tests_may_import_each_other() {
        let files = [
            ("lib.rs", "mod a; mod b; pub struct Root;"),
            ("a/mod.rs", "mod inner; use inner::f; pub struct A;"),
            ("a/inner.rs", "use super::A; use crate::Root; pub fn f() {}"),
            ("b.rs", "use crate::a::A; #[cfg(test)] mod tests { use crate::a::A; }"),
        ];
        assert_eq!(cycles_of("none", &files), Vec::<Vec<(PathBuf, PathBuf)>>::new());
    }
}
