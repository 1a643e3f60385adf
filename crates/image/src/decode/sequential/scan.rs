//! The entropy-coded units of a scan, a row of them at a time.

use super::bits::{Cursor, Segments};
use super::frame::Frame;
use super::huffman::{AcTable, DcTable, END, HARD, SKIP_BITS, VALUE_BITS};
use super::plan::Plan;
use super::resample::{Group, LANES, SLOTS};
use super::{Tables, Unfit, flat};
use tagstream_multiversion::wide;

/// Two coefficients at once are safe up to here: the first cannot be the block's last one.
const PAIRS: usize = 47;
/// Steps that can be made with the bits of one refill.
const PAIRS_A_REFILL: u32 = 56 / VALUE_BITS;
const SKIPS_A_REFILL: u32 = 56 / SKIP_BITS;
/// Largest DC coefficient; differences that add up to more do not come from a picture.
const LARGEST_DC: i32 = 2047;

/// Coefficients of a row of units.
#[derive(Default)]
pub(super) struct Strip {
    units: usize,
    components: [Vec<Group>; 3],
    /// What flat blocks of chroma add to green.
    green: Vec<Group>,
}

impl Strip {
    /// Makes room for a row of units.
    pub(super) fn shape(&mut self, frame: &Frame, plans: &[Plan]) {
        self.units = frame.width.div_ceil(8 * frame.widest);
        for (groups, plan) in self.components.iter_mut().zip(plans) {
            let count = (self.units * plan.across).div_ceil(LANES) * plan.down;
            if groups.len() > count {
                groups.truncate(count);
                groups.shrink_to(2 * count);
            }
            // Of another picture are left over other coefficients.
            groups.clear();
            groups.resize(count, Group::EMPTY);
        }
        for groups in &mut self.components[plans.len().min(3)..] {
            groups.clear();
        }
        self.green.clear();
        self.green.resize(self.components[1].len(), Group::FLAT);
    }

    /// A component's groups, or, as the fourth one, those of what is missing of green: all of a row of blocks, then the next row.
    pub(super) fn groups(&self, component: usize) -> &[Group] {
        self.components.get(component).unwrap_or(&self.green)
    }

    /// Rounds the blocks of one value.
    pub(super) fn settle(&mut self) {
        let [luma, blue, red] = &mut self.components;
        flat::luma(luma);
        flat::chroma(blue, red, &mut self.green);
    }

    #[inline(always)]
    fn clear(&mut self, plans: &[Plan]) {
        for (groups, plan) in self.components.iter_mut().zip(plans) {
            for group in groups {
                let slots = plan.extents[group.reach].slots;
                group.values[..slots].fill([0; LANES]);
                group.reach = 0;
            }
        }
    }
}

/// Where reading has come to.
pub(super) struct Scan<'a> {
    segments: Segments<'a>,
    cursor: Cursor,
    plans: &'a [Plan],
    tables: &'a Tables,
    /// DC coefficients of the blocks before.
    before: [i32; 3],
    restart_interval: usize,
    until_restart: usize,
    restarts: u8,
}

impl<'a> Scan<'a> {
    /// At the first unit.
    pub(super) fn new(frame: &Frame<'a>, plans: &'a [Plan], tables: &'a Tables) -> Self {
        Scan {
            segments: Segments::new(frame.scan),
            cursor: Cursor::default(),
            plans,
            tables,
            before: [0; 3],
            restart_interval: frame.restart_interval,
            until_restart: frame.restart_interval,
            restarts: 0,
        }
    }

    /// Reads the next row of units.
    ///
    /// # Errors
    /// [`Unfit`] if something in the data is wrong.
    pub(super) fn strip(&mut self, strip: &mut Strip) -> Result<(), Unfit> {
        units(self, strip)
    }

    #[inline(always)]
    fn units(&mut self, strip: &mut Strip) -> Result<(), Unfit> {
        strip.clear(self.plans);
        let mut cursor = self.cursor;
        for unit in 0..strip.units {
            if self.restart_interval > 0 {
                if self.until_restart == 0 {
                    self.segments.pass(&mut cursor, 0xd0 + self.restarts % 8)?;
                    self.restarts = self.restarts.wrapping_add(1);
                    self.until_restart = self.restart_interval;
                    self.before = [0; 3];
                }
                self.until_restart -= 1;
            }
            self.segments.before_unit(&mut cursor);
            for ((plan, groups), before) in self
                .plans
                .iter()
                .zip(&mut strip.components)
                .zip(&mut self.before)
            {
                // One or two.
                let per_row = groups.len() >> (plan.down - 1);
                let (dc, ac) = (&self.tables.dc[plan.dc], &self.tables.ac[plan.ac]);
                for down in 0..plan.down {
                    for across in 0..plan.across {
                        let index = unit * plan.across + across;
                        let group = &mut groups[down * per_row + index / LANES];
                        let lane = index % LANES;
                        let segments = &self.segments;
                        cursor = block(dc, ac, plan, segments, cursor, before, group, lane)?;
                    }
                }
            }
            self.segments.after_unit(&cursor)?;
        }
        self.cursor = cursor;
        Ok(())
    }

    /// After the last row.
    ///
    /// # Errors
    /// [`Unfit`] if the picture does not end here.
    pub(super) fn finish(mut self) -> Result<(), Unfit> {
        self.segments.pass(&mut self.cursor, 0xd9)
    }
}

wide! {
    /// [`Scan::units`].
    fn units(scan: &mut Scan, strip: &mut Strip) -> Result<(), Unfit> = Scan::units;
}

/// Reads a block into its lane.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // In a struct they would be kept in memory.
fn block(
    dc: &DcTable,
    ac: &AcTable,
    plan: &Plan,
    segments: &Segments,
    mut cursor: Cursor,
    before: &mut i32,
    group: &mut Group,
    lane: usize,
) -> Result<Cursor, Unfit> {
    let lane = lane % LANES;
    cursor.refill(segments);
    *before += dc.read(&mut cursor)?;
    if before.abs() > LARGEST_DC {
        return Err(Unfit);
    }
    let last = ac_coefficients(ac, plan, segments, &mut cursor, group, lane)?;
    group.reach = group.reach.max(last.min(plan.last));
    group.values[0][lane] = plan.mean(*before);
    group.flat[lane] = u8::from(last == 0);
    Ok(cursor)
}

/// Reads the rest of a block and gives the place of its last coefficient. Of those after [`Plan::last`] only the codes are read.
#[inline(always)]
fn ac_coefficients(
    table: &AcTable,
    plan: &Plan,
    segments: &Segments,
    cursor: &mut Cursor,
    group: &mut Group,
    lane: usize,
) -> Result<usize, Unfit> {
    let near = plan.last.min(PAIRS);
    // Place of the last coefficient that was read, END more after the end of the block.
    let mut place = 0;
    while place < near {
        cursor.refill(segments);
        for _ in 0..PAIRS_A_REFILL {
            let pair = table.pair(cursor);
            cursor.skip(pair.bits());
            let (advance, value) = pair.first();
            place += advance;
            group.values[usize::from(plan.slots[place % 512]) % SLOTS][lane] = value;
            let (advance, value) = pair.second();
            place += advance;
            group.values[usize::from(plan.slots[place % 512]) % SLOTS][lane] = value;
            if place > PAIRS {
                break;
            }
        }
        if place >= HARD {
            place -= HARD;
            place += one(table, plan, segments, cursor, place, group, lane)?;
        }
    }
    while place < plan.last {
        place += one(table, plan, segments, cursor, place, group, lane)?;
    }
    while place < 63 {
        cursor.refill(segments);
        for _ in 0..SKIPS_A_REFILL {
            let (bits, advance) = table.passing(cursor);
            // The last coefficient needs no end of the block after it, so a step must stop short of that one.
            let next = place + advance;
            if next < 63 {
                cursor.skip(bits);
                place = next;
                continue;
            }
            if (END..END + 63).contains(&next) {
                cursor.skip(bits);
                place = next;
            } else {
                cursor.refill(segments);
                place += table.careful(cursor)?.0;
            }
            break;
        }
    }
    if (64..END).contains(&place) {
        return Err(Unfit);
    }
    Ok(place % END)
}

/// Reads one coefficient; gives how far it is from the one before.
#[inline(always)]
fn one(
    table: &AcTable,
    plan: &Plan,
    segments: &Segments,
    cursor: &mut Cursor,
    place: usize,
    group: &mut Group,
    lane: usize,
) -> Result<usize, Unfit> {
    cursor.refill(segments);
    let (advance, value) = table.careful(cursor)?;
    group.values[usize::from(plan.slots[(place + advance) % 512]) % SLOTS][lane] = value;
    Ok(advance)
}
