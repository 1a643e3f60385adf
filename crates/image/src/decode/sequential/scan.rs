//! The scan: Huffman-coded MCUs to coefficients, one MCU row at a time (T.81, F.2).

use super::super::marker;
use super::bits::{Cursor, Segments};
use super::frame::Frame;
use super::group::{CAPACITY, Group, LANES};
use super::huffman::{AcTable, DcTable, END_OF_BLOCK, PAIR_BITS, SKIP_BITS, UNRESOLVED};
use super::mcu_row::McuRow;
use super::plan::Plan;
use super::tables::Tables;
use super::unfit::Unfit;
use tagstream_multiversion::multiversioned;

/// Two coefficients may be decoded at once up to this zigzag index: the first one advances it by 16
/// at most, so it cannot be coefficient 63, after which the next block begins without an end of
/// block.
const LAST_BEFORE_PAIR: usize = 46;
/// Lookups of pairs for which the bits of one refill are enough.
const PAIRS_PER_REFILL: u32 = 56 / PAIR_BITS;
/// Lookups without values for which they are enough.
const SKIPS_PER_REFILL: u32 = 56 / SKIP_BITS;
/// Largest DC coefficient of 8-bit samples.
const LARGEST_DC: i32 = 2047;

/// The scan, read up to some MCU.
pub(super) struct Scan<'a> {
    segments: Segments<'a>,
    cursor: Cursor,
    plans: &'a [Plan],
    tables: &'a Tables,
    /// By component: the DC coefficient of the block before (T.81, F.2.1.3.1).
    dc_predictors: [i32; 3],
    restart_interval: usize,
    mcus_until_restart: usize,
    restarts: u8,
}

impl<'a> Scan<'a> {
    /// At the first MCU.
    pub(super) fn new(frame: &Frame<'a>, plans: &'a [Plan], tables: &'a Tables) -> Self {
        Scan {
            segments: Segments::new(frame.coded_data),
            cursor: Cursor::default(),
            plans,
            tables,
            dc_predictors: [0; 3],
            restart_interval: frame.restart_interval,
            mcus_until_restart: frame.restart_interval,
            restarts: 0,
        }
    }

    /// Reads the next MCU row.
    ///
    /// # Errors
    /// [`Unfit`] if something in the data is wrong.
    pub(super) fn read_mcu_row(&mut self, row: &mut McuRow) -> Result<(), Unfit> {
        read_mcu_row(self, row)
    }

    #[inline(always)]
    fn read_mcu_row_inlined(&mut self, row: &mut McuRow) -> Result<(), Unfit> {
        row.clear(self.plans);
        let mut cursor = self.cursor;
        for mcu in 0..row.mcus() {
            if self.restart_interval > 0 {
                // Restart markers count modulo 8, and predictors begin anew (T.81, E.2.4,
                // F.2.1.3.1).
                if self.mcus_until_restart == 0 {
                    let restart = marker::RST0 + self.restarts % 8;
                    self.segments.next_segment(&mut cursor, restart)?;
                    self.restarts = self.restarts.wrapping_add(1);
                    self.mcus_until_restart = self.restart_interval;
                    self.dc_predictors = [0; 3];
                }
                self.mcus_until_restart -= 1;
            }
            self.segments.before_mcu(&mut cursor);
            for ((plan, groups), dc_predictor) in self
                .plans
                .iter()
                .zip(row.components_mut())
                .zip(&mut self.dc_predictors)
            {
                // The vertical sampling factor is one or two.
                let per_block_row = groups.len() >> (plan.vertical_sampling - 1);
                let dc = &self.tables.dc[plan.dc_table];
                let ac = &self.tables.ac[plan.ac_table];
                for y in 0..plan.vertical_sampling {
                    for x in 0..plan.horizontal_sampling {
                        let block = mcu * plan.horizontal_sampling + x;
                        let group = &mut groups[y * per_block_row + block / LANES];
                        let lane = block % LANES;
                        let segments = &self.segments;
                        cursor =
                            read_block(dc, ac, plan, segments, cursor, dc_predictor, group, lane)?;
                    }
                }
            }
            self.segments.after_mcu(&cursor)?;
        }
        self.cursor = cursor;
        Ok(())
    }

    /// To be called after the last MCU row.
    ///
    /// # Errors
    /// [`Unfit`] if the image does not end here.
    pub(super) fn finish(mut self) -> Result<(), Unfit> {
        self.segments.next_segment(&mut self.cursor, marker::EOI)
    }
}

multiversioned! {
    fn read_mcu_row(
        scan: &mut Scan,
        row: &mut McuRow,
    ) -> Result<(), Unfit> = Scan::read_mcu_row_inlined;
}

/// Reads a block into its lane.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // In a struct they would be kept in memory.
fn read_block(
    dc: &DcTable,
    ac: &AcTable,
    plan: &Plan,
    segments: &Segments,
    mut cursor: Cursor,
    dc_predictor: &mut i32,
    group: &mut Group,
    lane: usize,
) -> Result<Cursor, Unfit> {
    let lane = lane % LANES;
    cursor.refill(segments);
    *dc_predictor += dc.decode_difference(&mut cursor)?;
    if dc_predictor.abs() > LARGEST_DC {
        return Err(Unfit);
    }
    let last_nonzero = read_ac_coefficients(ac, plan, segments, &mut cursor, group, lane)?;
    group.last_nonzero = group.last_nonzero.max(last_nonzero.min(plan.last_kept));
    group.coefficients[0][lane] = plan.mean(*dc_predictor);
    group.flat[lane] = u8::from(last_nonzero == 0);
    Ok(cursor)
}

/// Reads the AC coefficients of a block (T.81, F.2.2.2) and returns the zigzag index of the last
/// nonzero one. Beyond [`Plan::last_kept`] codes are decoded and values skipped.
#[inline(always)]
fn read_ac_coefficients(
    table: &AcTable,
    plan: &Plan,
    segments: &Segments,
    cursor: &mut Cursor,
    group: &mut Group,
    lane: usize,
) -> Result<usize, Unfit> {
    let last_by_pairs = plan.last_kept.min(LAST_BEFORE_PAIR);
    // Zigzag index of the coefficient decoded last; END_OF_BLOCK more after the end of the block.
    let mut zigzag = 0;
    while zigzag < last_by_pairs {
        cursor.refill(segments);
        for _ in 0..PAIRS_PER_REFILL {
            let pair = table.peek_pair(cursor);
            cursor.skip(pair.bits());
            let (advance, value) = pair.first();
            zigzag += advance;
            let storage = usize::from(plan.storage_of_zigzag[zigzag % 512]);
            group.coefficients[storage % CAPACITY][lane] = value;
            let (advance, value) = pair.second();
            zigzag += advance;
            let storage = usize::from(plan.storage_of_zigzag[zigzag % 512]);
            group.coefficients[storage % CAPACITY][lane] = value;
            if zigzag > LAST_BEFORE_PAIR {
                break;
            }
        }
        if zigzag >= UNRESOLVED {
            zigzag -= UNRESOLVED;
            zigzag += read_one(table, plan, segments, cursor, zigzag, group, lane)?;
        }
    }
    while zigzag < plan.last_kept {
        zigzag += read_one(table, plan, segments, cursor, zigzag, group, lane)?;
    }
    while zigzag < 63 {
        cursor.refill(segments);
        for _ in 0..SKIPS_PER_REFILL {
            let (bits, advance) = table.peek_skip(cursor);
            // No end of block follows coefficient 63, so a lookup that goes past it may have taken
            // the next block's first bits for one.
            let next = zigzag + advance;
            if next < 63 {
                cursor.skip(bits);
                zigzag = next;
                continue;
            }
            if (END_OF_BLOCK..END_OF_BLOCK + 63).contains(&next) {
                cursor.skip(bits);
                zigzag = next;
            } else {
                cursor.refill(segments);
                zigzag += table.decode_one(cursor)?.0;
            }
            break;
        }
    }
    if (64..END_OF_BLOCK).contains(&zigzag) {
        return Err(Unfit);
    }
    Ok(zigzag % END_OF_BLOCK)
}

/// Reads the one coefficient after `zigzag` and returns by how much it advances the zigzag index.
#[inline(always)]
fn read_one(
    table: &AcTable,
    plan: &Plan,
    segments: &Segments,
    cursor: &mut Cursor,
    zigzag: usize,
    group: &mut Group,
    lane: usize,
) -> Result<usize, Unfit> {
    cursor.refill(segments);
    let (advance, value) = table.decode_one(cursor)?;
    let storage = usize::from(plan.storage_of_zigzag[(zigzag + advance) % 512]);
    group.coefficients[storage % CAPACITY][lane] = value;
    Ok(advance)
}
