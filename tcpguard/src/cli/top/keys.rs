//! Keyboard input.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::view::View;

/// The reaction to a key press.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// The program ends.
    Quit,
    /// The program continues.
    Stay,
}

/// Applies a key press to the view.
pub fn press(view: &mut View, key: KeyEvent) -> Reaction {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Reaction::Quit;
    }
    if view.is_typing {
        edit_filter(view, key.code);
        return Reaction::Stay;
    }
    match key.code {
        KeyCode::Char('q') => return Reaction::Quit,
        KeyCode::Esc if view.filter.is_empty() => return Reaction::Quit,
        KeyCode::Esc => view.filter.clear(),
        KeyCode::Char('s') => view.sort = view.sort.next(),
        KeyCode::Char('/' | 'f') => view.is_typing = true,
        KeyCode::Down | KeyCode::Char('j') => view.scroll += 1,
        KeyCode::Up | KeyCode::Char('k') => view.scroll = view.scroll.saturating_sub(1),
        KeyCode::PageDown => view.scroll += 10,
        KeyCode::PageUp => view.scroll = view.scroll.saturating_sub(10),
        KeyCode::Home => view.scroll = 0,
        _ => {}
    }
    // Scroll no further than to the last source.
    view.scroll = view.scroll.min(view.wanted_sources().len().saturating_sub(1));
    Reaction::Stay
}

fn edit_filter(view: &mut View, key: KeyCode) {
    match key {
        KeyCode::Enter => view.is_typing = false,
        KeyCode::Esc => {
            view.is_typing = false;
            view.filter.clear();
        }
        KeyCode::Backspace => {
            view.filter.pop();
        }
        // Addresses contain no other characters.
        KeyCode::Char(character) if character.is_ascii_hexdigit() || ".:".contains(character) => {
            view.filter.push(character)
        }
        _ => {}
    }
    view.scroll = 0;
}
