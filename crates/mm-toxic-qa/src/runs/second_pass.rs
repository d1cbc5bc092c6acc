//! A second judge on recorded answers.

use crate::judges::judge::judge_all;
use crate::{Judge, Record, Result, RunFile, Split};

/// Judges recorded answers again, and writes them to another file with the new verdicts.
///
/// Answers to utility samples are not judged but copied. Records that `to` has are skipped, so a pass that ended with an error of the judge
/// is resumed by another call. `batch` answers are judged together, and written when all are judged. The result is the given records in
/// their order, with the verdicts of this judge.
///
/// ```no_run
/// use mm_toxic_qa::{Durability, RefusalJudge, RunFile, judge_again, read_records};
/// use mm_toxic_qa::Judge;
///
/// let judge = RefusalJudge::v3();
/// let settings = serde_json::json!({"answers": "answers.jsonl", "judge": judge.id()});
/// let mut to = RunFile::open("refusals.jsonl", &settings, Durability::Batch)?;
/// let records = judge_again(read_records("answers.jsonl".as_ref())?, &judge, 64, &mut to)?;
/// # Ok::<(), mm_toxic_qa::Error>(())
/// ```
///
/// # Errors
///
/// The errors of the judge; [`Error::VerdictCount`](crate::Error::VerdictCount); [`Error::Write`](crate::Error::Write).
pub fn judge_again(records: Vec<Record>, judge: &dyn Judge, batch: usize, to: &mut RunFile) -> Result<Vec<Record>> {
    let mut judged = Vec::with_capacity(records.len());
    let mut records = records.into_iter().peekable();
    while records.peek().is_some() {
        let mut part: Vec<Record> = records.by_ref().take(batch.max(1)).collect();
        let fresh = |r: &Record| r.split != Split::Utility && to.record(&r.id, r.seed).is_none();
        let exchanges: Vec<_> = part.iter().filter(|r| fresh(r)).map(Record::exchange).collect();
        let mut verdicts = judge_all(judge, &exchanges)?.into_iter();
        for record in &mut part {
            if let Some(known) = to.record(&record.id, record.seed) {
                record.judge.clone_from(&known.judge);
            } else if record.split != Split::Utility {
                record.judge = verdicts.next();
            }
        }
        for record in &part {
            to.write(record.clone())?;
        }
        to.flush()?;
        judged.append(&mut part);
    }
    Ok(judged)
}
