//! Where the instances of one revision are kept: by place, so that finding one costs the same among eight and a million.

use super::instance::Instance;

/// Places come in rows, so that growing moves nothing.
const ROW: usize = 256;

#[derive(Debug, Clone, Default)]
pub struct Slab {
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Default)]
struct Row {
    places: Vec<Option<Instance>>,
    kept: usize,
}

impl Slab {
    fn at(slot: u32) -> (usize, usize) {
        let index = slot.saturating_sub(1) as usize;
        (index / ROW, index % ROW)
    }

    pub fn get(&self, slot: u32) -> Option<&Instance> {
        let (row, place) = Self::at(slot);
        self.rows.get(row)?.places.get(place)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Instance> {
        let (row, place) = Self::at(slot);
        self.rows.get_mut(row)?.places.get_mut(place)?.as_mut()
    }

    pub fn insert(&mut self, slot: u32, instance: Instance) {
        let (row, place) = Self::at(slot);
        if self.rows.len() <= row {
            self.rows.resize_with(row + 1, Row::default);
        }
        let row = &mut self.rows[row];
        if row.places.is_empty() {
            row.places.reserve_exact(ROW);
        }
        if row.places.len() <= place {
            row.places.resize_with(place + 1, || None);
        }
        row.kept += usize::from(row.places[place].replace(instance).is_none());
    }

    pub fn remove(&mut self, slot: u32) -> Option<Instance> {
        let (row, place) = Self::at(slot);
        let row = self.rows.get_mut(row)?;
        let removed = row.places.get_mut(place)?.take()?;
        row.kept -= 1;
        if row.kept == 0 {
            row.places = Vec::new();
        }
        Some(removed)
    }

    /// By place.
    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.rows.iter().flat_map(|row| &row.places).flatten()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Instance> {
        self.rows.iter_mut().flat_map(|row| &mut row.places).flatten()
    }
}
