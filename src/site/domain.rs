//! A libvirt domain XML rendered for this site. Pure.
//!
//! X1. What isn't named in the [`Rendering`] is copied as it is, byte for byte: comments, metadata, elements that
//!     no version of this program knows.
//! X2. An interface on a network without a counterpart here is left out: a VM comes up without a network
//!     sooner than on a wrong one.
//! X3. A path is replaced only at a component's border: `/srv/a` doesn't touch `/srv/ab`.

use crate::vocab::{Error, Kind, Result};
use quick_xml::escape::{escape, unescape};
use quick_xml::events::{BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};
use std::collections::BTreeMap;

/// What changes between the XML that was protected and the one that is defined here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendering {
    /// Another name: a test clone's.
    pub name: Option<String>,
    /// Another UUID: a test clone's.
    pub uuid: Option<String>,
    /// A new generation id, because the disks aren't at their newest moment: the guest must know that it was
    /// set back.
    pub genid: Option<String>,
    /// Paths of the other site and what they are here, the first that fits; e.g. the mount points.
    pub paths: Vec<(String, String)>,
    /// Networks.
    pub networks: Networks,
}

/// Which network here stands for one there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Networks and bridges by name.
    pub map: BTreeMap<String, String>,
    /// One that isn't in the map is the one of the same name here.
    pub same_names: bool,
}

impl Networks {
    /// The counterpart of a network or bridge.
    pub fn here(&self, there: &str) -> Option<String> {
        self.map.get(there).cloned().or_else(|| self.same_names.then(|| there.to_owned()))
    }
}

/// The rendered XML and what was done, for the job's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The XML.
    pub xml: String,
    /// The name of the domain.
    pub name: String,
    /// Networks whose interfaces were left out.
    pub without: Vec<String>,
}

fn wrong(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Invalid, format!("the domain XML can't be read: {why}"))
}

/// Renders a domain XML. `Invalid` if it is none.
pub fn render(xml: &str, how: &Rendering) -> Result<Rendered> {
    let mut reader = Reader::from_str(xml);
    let mut work = Work {
        how,
        out: Writer::new(Vec::new()),
        path: Vec::new(),
        held: None,
        text: Vec::new(),
        done: Done::default(),
    };
    let mut seen_root = false;
    loop {
        match reader.read_event().map_err(wrong)? {
            Event::Eof => {
                work.end_text()?;
                break;
            }
            event => {
                if let (Event::Start(root), true) = (&event, work.path.is_empty()) {
                    let root = name_of(root);
                    if seen_root || root != "domain" {
                        return Err(wrong(format!("its root is `{root}`, not `domain`")));
                    }
                    seen_root = true;
                }
                work.event(event)?;
            }
        }
    }
    if !work.path.is_empty() || !seen_root {
        return Err(wrong("it isn't a whole `domain` element"));
    }
    let xml = String::from_utf8(work.out.into_inner()).map_err(wrong)?;
    let name = work.done.name.ok_or_else(|| wrong("it has no name"))?;
    Ok(Rendered { xml, name, without: work.done.without })
}

#[derive(Default)]
struct Done {
    name: Option<String>,
    uuid: bool,
    genid: bool,
    without: Vec<String>,
}

struct Work<'a, 'x> {
    how: &'a Rendering,
    out: Writer<Vec<u8>>,
    /// Names of the elements that are open.
    path: Vec<String>,
    /// The events of an interface until it is known where it belongs.
    held: Option<Vec<Event<'x>>>,
    /// Pieces of a text, which the reader cuts at each `&…;`.
    text: Vec<Event<'x>>,
    done: Done,
}

fn name_of(start: &BytesStart<'_>) -> String {
    String::from_utf8_lossy(start.name().as_ref().as_bytes()).into_owned()
}

impl<'x> Work<'_, 'x> {
    fn event(&mut self, event: Event<'x>) -> Result<()> {
        if matches!(event, Event::Text(_) | Event::GeneralRef(_)) && self.held.is_none() {
            self.text.push(event);
            return Ok(());
        }
        self.end_text()?;
        match &event {
            Event::Start(start) => {
                self.path.push(name_of(start));
                if self.is_at(&["domain", "devices", "interface"]) {
                    self.held = Some(Vec::new());
                }
            }
            Event::End(_) => {
                if self.is_at(&["domain"]) {
                    self.add_missing()?;
                }
                let ends_interface = self.is_at(&["domain", "devices", "interface"]);
                self.path.pop();
                if ends_interface && let Some(mut held) = self.held.take() {
                    held.push(event);
                    return self.interface(held);
                }
            }
            _ => {}
        }
        if let Some(held) = &mut self.held {
            held.push(event);
            return Ok(());
        }
        self.write(event)
    }

    fn is_at(&self, path: &[&str]) -> bool {
        self.path.len() == path.len() && self.path.iter().zip(path).all(|(a, b)| a == b)
    }

    /// Writes one event, changed where the rendering says so.
    fn write(&mut self, event: Event<'x>) -> Result<()> {
        let out = match event {
            Event::Start(start) => Event::Start(self.attributes(start)?),
            Event::Empty(empty) if name_of(&empty) == "genid" && self.is_at(&["domain"]) => {
                let Some(genid) = self.how.genid.clone() else {
                    return self.raw(Event::Empty(empty));
                };
                self.done.genid = true;
                return self.element("genid", &genid);
            }
            Event::Empty(empty) => Event::Empty(self.attributes(empty)?),
            other => other,
        };
        self.raw(out)
    }

    fn raw(&mut self, event: Event<'_>) -> Result<()> {
        self.out.write_event(event).map_err(wrong)
    }

    fn element(&mut self, name: &str, text: &str) -> Result<()> {
        self.raw(Event::Start(BytesStart::new(name)))?;
        self.raw(Event::Text(BytesText::new(text)))?;
        self.raw(Event::End(BytesStart::new(name).to_end()))
    }

    /// Writes a text that has ended, changed where the rendering says so.
    fn end_text(&mut self) -> Result<()> {
        let pieces = std::mem::take(&mut self.text);
        if pieces.is_empty() {
            return Ok(());
        }
        let mut escaped = String::new();
        for piece in &pieces {
            match piece {
                Event::Text(text) => escaped.push_str(&text.xml10_content()),
                Event::GeneralRef(name) => {
                    escaped.push('&');
                    escaped.push_str(&name.xml10_content());
                    escaped.push(';');
                }
                _ => {}
            }
        }
        let old = unescape(&escaped).map_err(wrong)?;
        let replaced = if self.is_at(&["domain", "name"]) {
            self.done.name = Some(self.how.name.clone().unwrap_or_else(|| old.trim().to_owned()));
            self.how.name.clone()
        } else if self.is_at(&["domain", "uuid"]) {
            self.done.uuid = true;
            self.how.uuid.clone()
        } else if self.is_at(&["domain", "genid"]) {
            self.done.genid = true;
            self.how.genid.clone()
        } else {
            moved(&old, &self.how.paths)
        };
        match replaced {
            Some(new) => self.raw(Event::Text(BytesText::from_escaped(escape(new)))),
            None => pieces.into_iter().try_for_each(|piece| self.raw(piece)),
        }
    }

    /// The element with paths in its attributes replaced.
    fn attributes(&self, start: BytesStart<'x>) -> Result<BytesStart<'x>> {
        self.with_attributes(start, |_, value| moved(value, &self.how.paths))
    }

    fn with_attributes(
        &self,
        start: BytesStart<'x>,
        mut change: impl FnMut(&str, &str) -> Option<String>,
    ) -> Result<BytesStart<'x>> {
        let mut new = BytesStart::new(name_of(&start));
        let mut changed = false;
        for attribute in start.attributes() {
            let attribute = attribute.map_err(wrong)?;
            let key = String::from_utf8_lossy(attribute.key.as_ref().as_bytes()).into_owned();
            let raw = String::from_utf8_lossy(attribute.value.as_bytes()).into_owned();
            let value = unescape(&raw).map_err(wrong)?;
            let value = match change(&key, &value) {
                Some(other) => {
                    changed = true;
                    other
                }
                None => value.into_owned(),
            };
            new.push_attribute((key.as_str(), value.as_str()));
        }
        Ok(if changed { new } else { start })
    }

    /// X2. The whole of an interface.
    fn interface(&mut self, events: Vec<Event<'x>>) -> Result<()> {
        let mut wanted = None;
        for event in &events {
            if let Event::Start(start) | Event::Empty(start) = event
                && name_of(start) == "source"
            {
                for attribute in start.attributes() {
                    let attribute = attribute.map_err(wrong)?;
                    let key = attribute.key.as_ref().as_bytes();
                    if matches!(key, b"network" | b"bridge" | b"dev") {
                        let raw = String::from_utf8_lossy(attribute.value.as_bytes()).into_owned();
                        wanted = Some(unescape(&raw).map_err(wrong)?.into_owned());
                    }
                }
            }
        }
        // One without a network (`user`, for example) belongs to no site.
        let here = match &wanted {
            Some(there) => match self.how.networks.here(there) {
                Some(here) => here,
                None => {
                    self.done.without.push(there.clone());
                    return Ok(());
                }
            },
            None => String::new(),
        };
        for event in events {
            let source = |start: &BytesStart<'_>| wanted.is_some() && name_of(start) == "source";
            let change = |key: &str, value: &str| {
                (matches!(key, "network" | "bridge" | "dev") && value != here).then(|| here.clone())
            };
            let event = match event {
                Event::Start(start) if source(&start) => Event::Start(self.with_attributes(start, change)?),
                Event::Empty(start) if source(&start) => Event::Empty(self.with_attributes(start, change)?),
                other => other,
            };
            self.raw(event)?;
        }
        Ok(())
    }

    /// At the end of the domain: what the rendering wants and the XML didn't have.
    fn add_missing(&mut self) -> Result<()> {
        if let (Some(genid), false) = (self.how.genid.clone(), self.done.genid) {
            self.element("genid", &genid)?;
        }
        if let (Some(uuid), false) = (self.how.uuid.clone(), self.done.uuid) {
            self.element("uuid", &uuid)?;
        }
        Ok(())
    }
}

/// X3. The path at this site, if the text is one that has another.
fn moved(text: &str, paths: &[(String, String)]) -> Option<String> {
    let trimmed = text.trim();
    paths.iter().find_map(|(from, to)| {
        let from = from.trim_end_matches('/');
        let rest = trimmed.strip_prefix(from).filter(|_| !from.is_empty())?;
        let new = (rest.is_empty() || rest.starts_with('/'))
            .then(|| format!("{}{rest}", to.trim_end_matches('/')))?;
        (new != text).then_some(new)
    })
}

/// The text form of a UUID with these bits (version 4).
pub fn uuid_text(mut bits: [u8; 16]) -> String {
    bits[6] = bits[6] & 0x0f | 0x40;
    bits[8] = bits[8] & 0x3f | 0x80;
    let hex: String = bits.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests;
